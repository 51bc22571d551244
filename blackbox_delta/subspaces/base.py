"""What all subspaces share: z to θ by a fixed random linear map, rebuilt exactly from a seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.tensors import Theta
from blackbox_delta.types import FloatArray, Json, Vector

MAX_DIMENSION = 4096
#: Entries of a dense matrix, 256 MB as float32, beyond which a sparse one takes its place.
MOST_DENSE = 2**26

_Z_STEP, _Z_LIMIT = 2.0**-16, 256.0


@dataclass(frozen=True)
class Subspace:
    """A random d-dimensional subspace through the origin p0 of a D-dimensional space.

    With z ~ N(0, I) an entry of θ − p0 has the standard deviation ``scale``.

    Attributes:
        dimension: d, the length of z, at most 4096.
        size: D, the length of θ, at least d.
        seed: Determines the map.
        scale: Standard deviation of an entry of θ − p0 when z ~ N(0, I).

    Raises:
        ConfigError: A setting makes no sense.
    """

    dimension: int
    size: int
    seed: int
    scale: float

    #: What its settings are known by.
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise ConfigError(
                f"The search dimension must be between 1 and {MAX_DIMENSION}, not "
                f"{self.dimension}. Beyond that, θ could not be rebuilt exactly from z."
            )
        if self.dimension > self.size:
            raise ConfigError(
                f"The search dimension {self.dimension} is larger than the {self.size} numbers "
                "of the delta. Lower the dimension or lengthen the delta."
            )
        if self.seed < 0:
            raise ConfigError(f"The seed of a subspace must not be negative, not {self.seed}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"The scale of a subspace must be positive, not {self.scale}.")

    # ------------------------------------------------------------------ what kinds differ in

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of the consecutive parts of z that each move a part of θ alone; add up to d."""
        return (self.dimension,)

    def _blocks(self) -> Iterable[slice]:
        """Rows of θ that are worked on at a time."""
        raise NotImplementedError

    def _moved(self, z: Vector, rows: slice) -> NDArray[Any]:
        """(λ, rows) of A z for any rows of a block, each the same bits whatever else is made."""
        raise NotImplementedError

    @property
    def _factor(self) -> float:
        """What makes the deviation of an entry of A z the scale."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drops what takes room and can be drawn again."""

    # ------------------------------------------------------------------ what all do

    def snap(self, z: Vector) -> Vector:
        """What :meth:`project` makes of z: steps of 2^-16 within ±256, exact even as float32."""
        return snapped(z, _Z_STEP, _Z_LIMIT)

    def project(self, z: Vector, origin: FloatArray, rows: slice | None = None) -> FloatArray:
        """θ = p0 + s·A z for λ candidates at once.

        Args:
            z: (λ, d), finite.
            origin: p0 of shape (D,).
            rows: Consecutive numbers of θ; ``None`` for all of it.

        Returns:
            θ of shape (λ, D), or these rows of it; the same bits whatever else is made with them.

        Raises:
            ConfigError: The shapes do not fit, or z is not finite.
        """
        self._check_given(z, origin)
        start, stop, _ = (rows or slice(None)).indices(self.size)
        return self._projected(self.snap(z), origin, slice(start, stop))

    def _check_given(self, z: Vector, origin: FloatArray) -> None:
        if z.ndim != 2 or z.shape[1] != self.dimension or origin.shape != (self.size,):
            raise ConfigError(
                f"Expected z of shape (λ, {self.dimension}) and an origin of shape "
                f"({self.size},), not {z.shape} and {origin.shape}."
            )
        if not np.isfinite(z).all():
            raise ConfigError("z holds numbers that are not finite.")

    def _projected(self, exact: Vector, origin: FloatArray, rows: slice) -> FloatArray:
        """The same for a z that is snapped."""
        theta = np.empty((len(exact), rows.stop - rows.start), dtype=np.float32)
        if not exact.any():
            theta[:] = _exact(origin[rows])
            return theta
        for some in self._blocks_within(rows):
            place = slice(some.start - rows.start, some.stop - rows.start)
            theta[:, place] = _exact(origin[some]) + self._factor * self._moved(exact, some)
        return theta

    def _blocks_within(self, rows: slice) -> Iterator[slice]:
        for block in self._blocks():
            if block.start >= rows.stop:
                return
            if block.stop > rows.start:
                yield slice(max(block.start, rows.start), min(block.stop, rows.stop))

    def theta(self, z: Vector) -> Theta:
        """θ around p0 = 0 for λ candidates, of which any rows can be made.

        Raises:
            ConfigError: z has another shape than (λ, d), or is not finite.
        """
        nothing = np.broadcast_to(np.float32(0), self.size)
        self._check_given(z, nothing)
        recipe = json.dumps(self.config(), sort_keys=True).encode()

        def project(exact: Vector, rows: slice) -> FloatArray:
            return self._projected(exact, nothing, rows)

        return Theta(self.snap(z), project, recipe, slice(0, self.size))

    def config(self) -> Json:
        """Everything needed to rebuild it, ready for JSON."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "size": self.size,
            "seed": self.seed,
            "scale": self.scale,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What rebuilds it besides; none where a seed is enough."""
        return {}

    @classmethod
    def from_config(cls, values: Mapping[str, Any], _arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The subspace whose :meth:`config` and :meth:`arrays` these are, but for the kind.

        Raises:
            ConfigError: A setting makes no sense.
            KeyError: One is missing.
            TypeError: One is missing, or there are others.
        """
        return cls(**values)


def _exact(origin: FloatArray) -> Vector | float:
    """p0 in float64, without -0, so that the sign of a zero is fixed."""
    if origin.strides == (0,) and not origin[:1].any():
        return 0.0  # as it is for whatever starts from the untuned model: nothing to add up
    return origin.astype(np.float64) + 0.0


def snapped(values: Vector, step: float, limit: float) -> Vector:
    """The nearest multiples of ``step`` within ±``limit``."""
    return np.clip(np.rint(values / step) * step, -limit, limit)


def raw(seed: int, start: int, count: int) -> NDArray[np.uint64]:
    """The 64-bit numbers ``start`` to ``start + count`` of ``PCG64(seed)``.

    numpy promises the raw stream of a bit generator for ever, but not how it turns bits into
    variates; so that step is done here.
    """
    return np.random.PCG64(seed).advance(start).random_raw(count)
