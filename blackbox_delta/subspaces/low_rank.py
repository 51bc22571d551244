"""Seeded directions of low rank, as EGGROLL perturbs matrices (Sarkar et al., 2025, 2511.16652).

Direction j changes every m × n matrix of θ by

    E_j = A_j B_jᵀ / √r

with A_j (m, r) and B_j (n, r) as in EGGROLL's algorithm 1, whose entries are signs here. z weighs
the directions: θ − p0 is of rank r for one number of z, and of full rank for many. A vector is a
matrix of one column, and so moves along a plain random direction.

Nothing is kept, and only directions that z uses are drawn, r (m + n) signs each in place of m n
numbers: seeds stand in for noise, as in evolution strategies at scale (Qiu et al., 2025,
2509.24372).

**Rebuilding θ is exact, bit for bit**, for no sum of products rounds (see
:mod:`~blackbox_delta.subspaces.dense`): an entry of z is a multiple of 2^-16 of at most 2^8, the
difference of two at most 2^9, and a sum of 4096 r of them with signs takes 37 + log2 r bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces.base import Subspace, raw
from blackbox_delta.types import IntArray, Json, Vector

#: Entries of θ, and lines and columns of the factors, that are worked on at a time.
_BLOCK_ENTRIES, _LINES, _COLUMNS = 2**18, 2**13, 256
#: r at most, which leaves the sums exact.
_MOST_RANK = 2**12
#: Signs in a number of the stream.
_BITS = 64


class _Matrix(NamedTuple):
    """A matrix of θ.

    Attributes:
        start: Where θ holds it, row by row.
        line: Where its factors' lines begin among those of all matrices: m of A, then n of B.
        height: m.
        width: n.
    """

    start: int
    line: int
    height: int
    width: int


@dataclass(frozen=True)
class LowRankSubspace(Subspace):
    """One low-rank direction of all matrices for each number of z.

    Draw order: with L lines in the factors of all matrices, line i takes the numbers i, L + i,
    2L + i, … of ``PCG64(seed)``. Bit b, from the lowest, of the w-th of them is the sign in column
    64w + b: column jr + k is the k-th of direction j. So a direction is the same whatever d is.

    Attributes:
        shapes: Of the tensors that θ holds one after the other; their sizes add up to D. One of
            more than two axes is a matrix by its last one.
        rank: r, at most 4096.
    """

    shapes: tuple[tuple[int, ...], ...]
    rank: int = 1

    kind: ClassVar[str] = "low-rank"

    def _check(self) -> None:
        super()._check()
        if not 1 <= self.rank <= _MOST_RANK:
            raise ConfigError(
                f"The rank of a direction is between 1 and {_MOST_RANK}, not {self.rank}."
            )
        sizes = [math.prod(shape) for shape in self.shapes]
        if min(sizes, default=0) < 1 or sum(sizes) != self.size:
            raise ConfigError(
                f"Tensors of {sum(sizes)} numbers, each of at least one, do not make a delta of "
                f"{self.size} numbers."
            )

    @cached_property
    def _matrices(self) -> tuple[_Matrix, ...]:
        widths = [shape[-1] if len(shape) > 1 else 1 for shape in self.shapes]
        sizes = [math.prod(shape) for shape in self.shapes]
        heights = [size // width for size, width in zip(sizes, widths, strict=True)]
        starts = accumulate(sizes, initial=0)
        lines = accumulate(map(int.__add__, heights, widths), initial=0)
        return tuple(map(_Matrix, starts, lines, heights, widths))

    @cached_property
    def _lines(self) -> int:
        """L."""
        return sum(matrix.height + matrix.width for matrix in self._matrices)

    def _blocks(self) -> Iterator[slice]:
        starts = range(0, self.size, _BLOCK_ENTRIES)
        return (slice(start, min(start + _BLOCK_ENTRIES, self.size)) for start in starts)

    def _moved(self, z: Vector, rows: slice) -> Vector:
        start, stop, _ = rows.indices(self.size)
        # Candidates often have most numbers in common; the few that differ are soon added.
        steps = np.diff(z, axis=0, prepend=np.zeros((1, self.dimension)))
        moved = np.empty((len(z), stop - start))
        for matrix in self._matrices:
            end = min(stop - matrix.start, matrix.height * matrix.width)
            most = _LINES * matrix.width
            for first in range(max(start - matrix.start, 0), end, most):
                last, at = min(first + most, end), matrix.start + first - start
                moved[:, at : at + last - first] = self._within(matrix, steps, first, last)
        for before, own in pairwise(moved):
            own += before
        return moved

    def _within(self, matrix: _Matrix, steps: Vector, first: int, last: int) -> Vector:
        """(λ, last − first): what each step adds to these entries of a matrix."""
        top, bottom = first // matrix.width, -(-last // matrix.width)
        added = np.zeros((len(steps), bottom - top, matrix.width))
        for columns in self._used(steps):
            a = self._signs(matrix.line + top, bottom - top, columns)
            b = self._signs(matrix.line + matrix.height, matrix.width, columns)
            weights = steps[:, columns // self.rank]
            # The first candidate is a step from zero, with many more numbers than the others.
            for own in (slice(1), slice(1, None)):
                used = weights[own].any(axis=0)
                added[own] += _products(weights[own][:, used], a[:, used], b[:, used])
        flat = added.reshape(len(steps), (bottom - top) * matrix.width)
        return flat[:, first - top * matrix.width : last - top * matrix.width]

    def _used(self, steps: Vector) -> Iterator[IntArray]:
        """The factors' columns that are needed, some at a time."""
        used = np.flatnonzero(steps.any(axis=0))
        columns = (used[:, None] * self.rank + np.arange(self.rank)).reshape(-1)
        starts = range(0, len(columns), _COLUMNS)
        return (columns[start : start + _COLUMNS] for start in starts)

    def _signs(self, line: int, count: int, columns: IntArray) -> Vector:
        """(count, columns) of the factors, from a line on."""
        words, where = np.unique(columns // _BITS, return_inverse=True)
        starts = (words * self._lines + line).tolist()
        drawn = np.stack([raw(self.seed, start, count) for start in starts], axis=1)
        places = (columns % _BITS).astype(np.uint64)
        return 1.0 - 2.0 * (drawn[:, where] >> places & np.uint64(1)).astype(np.float64)

    @property
    def _factor(self) -> float:
        # An entry of A Bᵀ is a sum of r signs.
        return self.scale / math.sqrt(self.dimension * self.rank)

    def config(self) -> Json:
        """Everything needed to rebuild it, ready for JSON."""
        return {**super().config(), "shapes": [list(each) for each in self.shapes],
                "rank": self.rank}  # fmt: skip

    @classmethod
    def from_config(cls, values: Mapping[str, Any], _arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The subspace whose :meth:`config` this is, but for the kind."""
        shapes = tuple(tuple(map(int, shape)) for shape in values["shapes"])
        return cls(**{**values, "shapes": shapes})


def _products(weights: Vector, a: Vector, b: Vector) -> Vector:
    """A diag(w) Bᵀ, of shape (m, n), for each w of the weights; the smaller factor is weighed."""
    if len(a) < len(b):
        return np.asarray((weights[:, None] * a) @ b.T)
    return np.asarray(a @ (weights[:, None] * b).swapaxes(1, 2))
