"""Fastfood: a structured random matrix that is never built (Le, Sarlós & Smola, 2014, 1408.3060).

Used for intrinsic dimension by Li et al. (2018, 1804.08838). The matrix V of Le et al., with rows
of unit length instead of the lengths S: blocks of n = 2^⌈log2 d⌉ rows, at least 16, each

    V = H G Π H B / (‖G‖ √n)

with signs B, a permutation Π, normal factors G, and Hadamard's matrix H, which takes n log n
additions to apply. Everything is drawn again, group by group, whenever it is needed: the memory
does not grow with d·D, nor with D beyond θ itself.

**Rebuilding θ is exact, bit for bit**: every step is an addition, a subtraction or a product of
two arrays, entry by entry in a fixed order, which IEEE 754 fixes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from blackbox_delta.subspaces.base import Subspace, raw
from blackbox_delta.subspaces.dense import normal
from blackbox_delta.types import FloatArray, Vector

_GROUP_ENTRIES = 2**18
#: Of a block, so that its factors are not all zero.
_LEAST_WIDTH = 16


@dataclass(frozen=True)
class FastfoodSubspace(Subspace):
    """Structured, and nearly as good as a dense one; takes D log d operations a candidate.

    Draw order: row i of θ takes the numbers 2i and 2i + 1 of ``PCG64(seed)``, as if D were a
    multiple of n. The first gives G as a dense subspace's entries are drawn, and its lowest bit
    the sign in B; the second numbers of a block's rows, sorted, give Π.
    """

    kind: ClassVar[str] = "fastfood"

    @property
    def _width(self) -> int:
        """n."""
        return max(_LEAST_WIDTH, 1 << (self.dimension - 1).bit_length())

    def _blocks(self) -> Iterator[slice]:
        step = self._width * max(1, _GROUP_ENTRIES // self._width)
        starts = range(0, self.size, step)
        return (slice(start, min(start + step, self.size)) for start in starts)

    def _moved(self, z: Vector, rows: slice) -> FloatArray:
        n = self._width
        first = rows.start // n
        blocks = -(-rows.stop // n) - first
        drawn = raw(self.seed, 2 * first * n, 2 * blocks * n).reshape(blocks, n, 2)
        signs = (1.0 - 2.0 * (drawn[:, :, 0] & np.uint64(1))).astype(np.float32)
        u = ((drawn[:, :, 0] >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        factors = normal(u)
        order = np.argsort(drawn[:, :, 1], axis=1, kind="stable")
        lengths = np.array([math.sqrt(math.fsum(row * row)) for row in factors])
        gauss = (factors / lengths[:, None]).astype(np.float32)
        wanted = slice(rows.start - first * n, rows.stop - first * n)
        moved = np.empty((len(z), rows.stop - rows.start), dtype=np.float32)
        for candidate, own in enumerate(z.astype(np.float32)):
            x = np.zeros((blocks, n), dtype=np.float32)
            x[:, : self.dimension] = own
            x = _hadamard(x * signs)
            x = _hadamard(np.take_along_axis(x, order, axis=1) * gauss)
            moved[candidate] = x.reshape(-1)[wanted]
        return moved

    @property
    def _factor(self) -> float:
        # A row of V has the length 1 over n entries, of which z fills d; H H = n.
        return self.scale / math.sqrt(self.dimension)


def _hadamard(x: FloatArray) -> FloatArray:
    """H x along the last axis, of length 2^k, by butterflies."""
    rows, n = x.shape
    half = 1
    while half < n:
        pairs = x.reshape(rows, n // (2 * half), 2, half)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        x = np.stack([upper + lower, upper - lower], axis=2).reshape(rows, n)
        half *= 2
    return x
