"""The span of deltas that were tuned before, on other tasks.

Deltas of many tasks lie near one low-dimensional subspace, in which a new task is tuned with few
numbers (intrinsic prompt tuning: Qin et al., 2021, arXiv 2110.07867; black-box tuning in a learned
subspace: Zheng et al., 2023, arXiv 2305.03518). Both learn it with gradients; here it is spanned by
what earlier runs found without any. Where more numbers are asked for than there are runs, the
others move θ as in a random subspace, so that the search can also leave the span.

**Rebuilding θ is exact, bit for bit**, for no sum of products rounds (see
:mod:`~blackbox_delta.subspaces.dense`): an entry of the basis is a multiple of 2^-12 of at most
2^11, an entry of z one of 2^-16 of at most 2^8, and a sum of 2^6 products takes 53 bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces.base import Subspace, snapped
from blackbox_delta.subspaces.dense import DenseSubspace
from blackbox_delta.subspaces.sparse import SparseSubspace
from blackbox_delta.types import FloatArray, Json, Vector

#: Directions that a basis may hold.
MOST_DIRECTIONS = 64

_STEP, _LIMIT = 2.0**-12, 2.0**11
_BLOCK_ENTRIES = 2**20
#: What must be left of a direction's length once the others' span is taken from it.
_LEAST_LENGTH = 1e-4


@dataclass(frozen=True)
class LearnedSubspace(Subspace):
    """The first numbers of z move θ along a basis, the others as a random subspace does.

    Entries of θ − p0 have the deviation ``scale`` on average over θ: a basis moves some of them
    more than others. The seed is that of the random part.

    Attributes:
        basis: (r, D) orthogonal rows of length √D, r at most d and 64; see
            :func:`orthonormal_basis`.
        others: What moves θ by the remaining d − r numbers, ``"gaussian"`` (dense) or
            ``"sparse"``.
        apart: Whether the random directions are drawn for this basis: those of the seed alone may
            be an earlier run's own, which the basis spans already. What was saved before there was
            a difference has none.
        basis_sha256: SHA-256 of the basis.
    """

    basis: FloatArray = field(compare=False, repr=False)
    others: str = "gaussian"
    apart: bool = True
    basis_sha256: str = field(init=False)

    kind: ClassVar[str] = "learned"

    @classmethod
    def spanned(
        cls, dimension: int, basis: FloatArray, seed: int, scale: float, most_dense: int
    ) -> Self:
        """The subspace of a basis, with as many other directions as d asks for.

        Args:
            dimension: d, at least r.
            basis: (r, D).
            seed: Determines the other directions.
            scale: Standard deviation of an entry of θ − p0 when z ~ N(0, I).
            most_dense: Entries of a dense matrix beyond which a sparse one takes its place.

        Raises:
            ConfigError: A setting makes no sense.
        """
        count, size = basis.shape
        dense = (dimension - count) * size <= most_dense
        others = "gaussian" if dense else SparseSubspace.kind
        return cls(dimension, size, seed, scale, basis, others)

    def __post_init__(self) -> None:
        super().__post_init__()
        content = np.ascontiguousarray(self.basis, dtype="<f4").tobytes()
        object.__setattr__(self, "basis_sha256", hashlib.sha256(content).hexdigest())

    def _check(self) -> None:
        super()._check()
        count = len(self.basis)
        if count > self.dimension:
            raise ConfigError(
                f"A search dimension of {self.dimension} is less than the {count} directions that "
                "span the subspace; give at least as many, or leave it out."
            )
        if not (1 <= count <= MOST_DIRECTIONS and self.basis.shape == (count, self.size)):
            raise ConfigError(
                f"A basis of 1 to {MOST_DIRECTIONS} directions of {self.size} numbers is expected, "
                f"not one of shape {self.basis.shape}."
            )
        if not np.array_equal(snapped(self.basis.astype(np.float64), _STEP, _LIMIT), self.basis):
            raise ConfigError("The basis of the subspace is not rounded as it should be.")
        if self.others not in ("gaussian", SparseSubspace.kind):
            raise ConfigError(f"There are no other directions of kind '{self.others}'.")

    @cached_property
    def _random(self) -> Subspace | None:
        """What the remaining numbers move, in units of one."""
        left = self.dimension - len(self.basis)
        if not left:
            return None
        made = DenseSubspace if self.others == "gaussian" else SparseSubspace
        return made(left, self.size, self._seed_of_others, math.sqrt(left))

    @property
    def _seed_of_others(self) -> int:
        if not self.apart:
            return self.seed
        digest = hashlib.sha256(f"{self.seed} {self.basis_sha256}".encode()).digest()
        return int.from_bytes(digest[:8], "little")

    def forget(self) -> None:
        """Drops the matrix of the remaining numbers."""
        if self._random is not None:
            self._random.forget()

    def _blocks(self) -> Iterator[slice]:
        step = max(1, _BLOCK_ENTRIES // self.dimension)
        starts = range(0, self.size, step)
        return (slice(start, min(start + step, self.size)) for start in starts)

    def _moved(self, z: Vector, rows: slice) -> Vector:
        known = len(self.basis)
        moved = z[:, :known] @ self.basis[:, rows].astype(np.float64)
        if self._random is None:
            return moved
        others = self._random._moved(z[:, known:], rows)
        return moved + self._random._factor * others.astype(np.float64)

    @property
    def _factor(self) -> float:
        return self.scale / math.sqrt(self.dimension)

    def config(self) -> Json:
        """Everything needed to rebuild it beside :meth:`arrays`, ready for JSON."""
        own = {"others": self.others, "apart": self.apart, "basis_sha256": self.basis_sha256}
        return {**super().config(), **own}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The basis, (r, D)."""
        return {"basis": self.basis}

    @classmethod
    def from_config(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The subspace whose :meth:`config` and :meth:`arrays` these are, but for the kind."""
        expected = values["basis_sha256"]
        others = {name: value for name, value in values.items() if name != "basis_sha256"}
        made = cls(**{"apart": False, **others}, basis=arrays["basis"])
        if made.basis_sha256 != expected:
            raise ConfigError("The basis of the subspace is not the one that it was saved with.")
        return made


def orthonormal_basis(directions: Sequence[tuple[str, Vector]]) -> FloatArray:
    """An orthogonal basis of the span, of rows of length √D: the same bits on every machine.

    Gram and Schmidt's way, in the given order and twice, as rounding wants it; sums are taken in
    a fixed order, and what is left of a difference is rounded to multiples of 2^-12.

    Args:
        directions: What each is called in errors, and its (D,) numbers.

    Returns:
        (r, D), r being the number of directions.

    Raises:
        ConfigError: There are too many, or one lies in the span of those before it.
    """
    if len(directions) > MOST_DIRECTIONS:
        raise ConfigError(
            f"a subspace is spanned by {MOST_DIRECTIONS} earlier runs at most, not by "
            f"{len(directions)}; leave some out"
        )
    found: list[Vector] = []
    for name, direction in directions:
        before = _length(direction)
        rest = direction.astype(np.float64)
        for _ in range(2):
            for other in found:
                rest = rest - _sum(rest * other) * other
        left = _length(rest)
        if not left > _LEAST_LENGTH * before:
            raise ConfigError(
                f"the delta of {name} adds no direction of its own: it stayed where it started, or "
                "lies in the span of the runs named before it; leave it out"
            )
        found.append(rest / left)
    side = math.sqrt(len(found[0]))
    return snapped(np.array(found) * side, _STEP, _LIMIT).astype(np.float32)


def _length(vector: Vector) -> float:
    return math.sqrt(_sum(vector * vector))


def _sum(values: Vector) -> float:
    """In the same order on every machine: halves are added until one number is left."""
    while len(values) > 1:
        half = len(values) // 2
        folded = values[:half] + values[half : 2 * half]
        values = np.append(folded, values[-1]) if len(values) % 2 else folded
    return float(values[0])
