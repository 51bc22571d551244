"""One coordinate of z for each entry of θ: as in Uni-LoRA (Li et al., 2025, arXiv 2506.00799).

Each row of A holds a single ±1 at a random place; there it is 1/√n_j without a sign, where n_j
rows share the place j. Distances are kept on average as a dense matrix keeps them, a projection is
one look-up an entry, and nothing is kept: the memory does not grow with d·D. Rebuilding θ is exact,
for nothing is ever added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from blackbox_delta.subspaces.base import Subspace, raw
from blackbox_delta.types import FloatArray, Vector

#: Of θ, for each candidate: what a processor keeps near at hand.
_BLOCK_ENTRIES = 2**16


@dataclass(frozen=True)
class SparseSubspace(Subspace):
    """The cheapest subspace; for deltas of millions of entries.

    Draw order: row i takes the i-th number of ``PCG64(seed)``: its lowest bit is the sign, its
    upper 53 bits, as a number in [0, 1) times d, the place.
    """

    kind: ClassVar[str] = "sparse"

    def _blocks(self) -> Iterator[slice]:
        starts = range(0, self.size, _BLOCK_ENTRIES)
        return (slice(start, min(start + _BLOCK_ENTRIES, self.size)) for start in starts)

    def _moved(self, z: Vector, rows: slice) -> FloatArray:
        drawn = raw(self.seed, rows.start, rows.stop - rows.start)
        signs = 1.0 - 2.0 * (drawn & np.uint64(1)).astype(np.float32)
        places = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53 * self.dimension
        moved = np.take(z.astype(np.float32), places.astype(np.int64), axis=1)
        moved *= signs
        return moved

    @property
    def _factor(self) -> float:
        return self.scale
