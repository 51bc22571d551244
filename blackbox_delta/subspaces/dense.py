"""A dense random matrix: θ = p0 + s·A z of Black-Box Tuning (Sun et al., 2022, 2201.03514).

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
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces.base import Subspace, raw, snapped
from blackbox_delta.types import FloatArray, Json, Vector

DISTRIBUTIONS = ("gaussian", "uniform")

_A_STEP, _A_LIMIT = 2.0**-12, 8.0
_BLOCK_ENTRIES = 2**21  # 16 MB of float64 at a time
_WIDE_ENTRIES = 2**23  # 64 MB of float64 to be kept


@dataclass(frozen=True)
class DenseSubspace(Subspace):
    """A with independent entries of unit variance, D·d of them, which are kept.

    s = scale / √d, so that with z ~ N(0, I) an entry of θ − p0 has the standard deviation
    ``scale``. That is σ_A = α·std(E) / (√d·σ) of BBTv2 (2205.11200) for scale = α·std(E) / σ.

    Draw order: the entry (i, j) of A, row by row, takes the (i·d + j)-th 64-bit number of
    ``PCG64(seed)``; its upper 52 bits, plus a half, make u in (0, 1). Gaussian: Φ^-1(u).
    Uniform: √3·(2u − 1).

    Attributes:
        distribution: Of the entries of A, ``"gaussian"`` or ``"uniform"``.
    """

    distribution: str = "gaussian"

    kind: ClassVar[str] = "random"

    def _check(self) -> None:
        super()._check()
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigError(
                f"There is no subspace distribution '{self.distribution}'. "
                f"Choose one of {', '.join(DISTRIBUTIONS)}."
            )
        needed, there = 4 * self.size * self.dimension, _memory()
        if needed > there:
            raise ConfigError(
                f"A dense matrix of {self.size:,} × {self.dimension:,} numbers takes "
                f"{needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}. Take the "
                "subspace 'sparse' or 'fastfood', which keep none, or a smaller dimension."
            )

    @cached_property
    def _matrix(self) -> Vector | FloatArray:
        """(D, d); drawn when it is first needed, for many a start is never searched from."""
        # As float64 it need not be converted each time; float32 holds the same numbers.
        wide = self.size * self.dimension <= _WIDE_ENTRIES
        matrix = np.empty((self.size, self.dimension), dtype=np.float64 if wide else np.float32)
        for rows in self._blocks():
            block = matrix[rows]
            upper = raw(self.seed, rows.start * self.dimension, block.size) >> np.uint64(12)
            u = (upper.astype(np.float64) + 0.5) * 2.0**-52
            values = normal(u) if self.distribution == "gaussian" else _uniform(u)
            block[:] = values.reshape(block.shape)
        return matrix

    def forget(self) -> None:
        """Drops the matrix."""
        vars(self).pop("_matrix", None)

    def _blocks(self) -> Iterator[slice]:
        step = max(1, _BLOCK_ENTRIES // self.dimension)
        return (slice(start, start + step) for start in range(0, self.size, step))

    def _moved(self, z: Vector, rows: slice) -> Vector:
        return z @ self._matrix[rows].T.astype(np.float64, copy=False)

    @property
    def _factor(self) -> float:
        return self.scale / math.sqrt(self.dimension)

    def config(self) -> Json:
        """Everything needed to rebuild it, ready for JSON."""
        return {**super().config(), "distribution": self.distribution}


def _memory() -> float:
    """Bytes that this machine has, infinitely many where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def normal(u: Vector) -> Vector:
    """Normal variates, rounded, from uniform ones in (0, 1)."""
    from scipy.special import ndtri

    return snapped(np.asarray(ndtri(u), dtype=np.float64), _A_STEP, _A_LIMIT)


def _uniform(u: Vector) -> Vector:
    return snapped(math.sqrt(3.0) * (2.0 * u - 1.0), _A_STEP, _A_LIMIT)
