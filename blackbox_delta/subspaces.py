"""From z to θ: the affine map θ = p0 + s·A z of Black-Box Tuning (Sun et al., 2022, 2201.03514).

**Rebuilding θ from z and a seed is exact, bit for bit**, on any machine and in any batch.
Linear-algebra libraries add in whatever order is fastest, so the sums themselves must not
depend on it. They don't, because no addition ever rounds: entries of A are rounded to
multiples of 2^-12 with |a| <= 8, entries of z to multiples of 2^-16 with |z| <= 256. A product
then needs 15 + 24 bits, and a sum of up to 4096 = 2^12 of them 51 bits, fewer than the 53 of a
float64. What follows the sum is one multiplication, one addition and one rounding to float32
for each entry, which IEEE 754 fixes. A step of 2^-16 in z lies far below what a search resolves.

**A itself comes from raw bits.** numpy promises the raw stream of a bit generator for ever, but
not how it turns bits into normal variates; so that step is done here, through the inverse of
the normal distribution function, whose last-digit differences the rounding to 2^-12 removes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.types import FloatArray, Json, Vector

DISTRIBUTIONS = ("gaussian", "uniform")
MAX_DIMENSION = 4096

_KIND = "random"
_A_STEP, _A_LIMIT = 2.0**-12, 8.0
_Z_STEP, _Z_LIMIT = 2.0**-16, 256.0
_BLOCK_ENTRIES = 2**21  # 16 MB of float64 at a time
_WIDE_ENTRIES = 2**23  # 64 MB of float64 to be kept


@dataclass(frozen=True)
class RandomSubspace:
    """A random d-dimensional subspace through the origin p0 of a D-dimensional space.

    Entries of A have unit variance, and s = scale / √d, so that with z ~ N(0, I) an entry of
    θ − p0 has the standard deviation ``scale``. That is σ_A = α·std(E) / (√d·σ) of Black-Box
    Tuning for scale = α·std(E) / σ.

    Draw order: the entry (i, j) of A, row by row, takes the (i·d + j)-th 64-bit number of
    ``PCG64(seed)``; its upper 52 bits, plus a half, make u in (0, 1). Gaussian: Φ^-1(u).
    Uniform: √3·(2u − 1).

    Attributes:
        dimension: d, the length of z, at most 4096.
        size: D, the length of θ, at least d.
        seed: Determines A.
        scale: Standard deviation of an entry of θ − p0 when z ~ N(0, I).
        distribution: Of the entries of A, ``"gaussian"`` or ``"uniform"``.

    Raises:
        ConfigError: A setting makes no sense.
    """

    dimension: int
    size: int
    seed: int
    scale: float
    distribution: str = "gaussian"

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
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigError(
                f"There is no subspace distribution '{self.distribution}'. "
                f"Choose one of {', '.join(DISTRIBUTIONS)}."
            )

    @cached_property
    def _matrix(self) -> Vector | FloatArray:
        """(D, d); drawn when it is first needed, for many a start is never searched from."""
        bits = np.random.PCG64(self.seed)
        # As float64 it need not be converted each time; float32 holds the same numbers.
        wide = self.size * self.dimension <= _WIDE_ENTRIES
        matrix = np.empty((self.size, self.dimension), dtype=np.float64 if wide else np.float32)
        for rows in self._blocks():
            block = matrix[rows]
            upper = (bits.random_raw(block.size) >> np.uint64(12)).astype(np.float64)
            u = (upper + 0.5) * 2.0**-52
            block[:] = _snap(self._quantile(u), _A_STEP, _A_LIMIT).reshape(block.shape)
        return matrix

    def _quantile(self, u: Vector) -> Vector:
        if self.distribution == "uniform":
            return math.sqrt(3.0) * (2.0 * u - 1.0)
        from scipy.special import ndtri

        return np.asarray(ndtri(u), dtype=np.float64)

    def _blocks(self) -> list[slice]:
        step = max(1, _BLOCK_ENTRIES // self.dimension)
        return [slice(start, start + step) for start in range(0, self.size, step)]

    def snap(self, z: Vector) -> Vector:
        """What :meth:`project` makes of z: steps of 2^-16 within ±256, exact even as float32."""
        return _snap(z, _Z_STEP, _Z_LIMIT)

    def project(self, z: Vector, origin: FloatArray) -> FloatArray:
        """θ = p0 + s·A z for λ candidates at once.

        Args:
            z: (λ, d), finite.
            origin: p0 of shape (D,).

        Returns:
            θ of shape (λ, D), the same bits whatever else is in the batch.

        Raises:
            ConfigError: The shapes do not fit, or z is not finite.
        """
        if z.ndim != 2 or z.shape[1] != self.dimension or origin.shape != (self.size,):
            raise ConfigError(
                f"Expected z of shape (λ, {self.dimension}) and an origin of shape "
                f"({self.size},), not {z.shape} and {origin.shape}."
            )
        if not np.isfinite(z).all():
            raise ConfigError("z holds numbers that are not finite.")
        exact = self.snap(z)
        factor = self.scale / math.sqrt(self.dimension)
        theta = np.empty((len(z), self.size), dtype=np.float32)
        if not exact.any():
            theta[:] = origin.astype(np.float64) + 0.0
            return theta
        for rows in self._blocks():
            az = exact @ self._matrix[rows].T.astype(np.float64, copy=False)
            p0 = origin[rows].astype(np.float64) + 0.0  # no -0, so the sign of a zero is fixed
            theta[:, rows] = p0 + factor * az
        return theta

    def config(self) -> Json:
        """Everything needed to rebuild it, ready for JSON."""
        return {
            "kind": _KIND,
            "dimension": self.dimension,
            "size": self.size,
            "seed": self.seed,
            "scale": self.scale,
            "distribution": self.distribution,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RandomSubspace:
        """The same subspace again.

        Raises:
            ConfigError: The settings are not those of a random subspace.
        """
        values = dict(config)
        if values.pop("kind", None) != _KIND:
            raise ConfigError(f"Not the settings of a random subspace: {dict(config)}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(
                f"The settings of the subspace are incomplete or of another version: {error}."
            ) from error


def _snap(values: Vector, step: float, limit: float) -> Vector:
    return np.clip(np.rint(values / step) * step, -limit, limit)
