"""Adapters: bottlenecks with a skip connection (Houlsby et al., 2019, arXiv 1902.00751).

One stands behind each feed-forward block, as in Pfeiffer et al. (2021, arXiv 2005.00247).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from blackbox_delta.deltas.blocks import Block, ModuleDelta, even, widest
from blackbox_delta.deltas.targets import FEED_FORWARD


class Adapter(ModuleDelta):
    """y + U gelu(V y), with V (r, outputs) and U (outputs, r).

    V starts at random and U at zero, so z = 0 is the untuned model.

    Args:
        modules: What it stands behind.
        rank: r, the width of the bottleneck.
        seed: Determines where V starts.
    """

    kind = "adapter"
    targets = FEED_FORWARD
    needs_matrices = False
    defaults: ClassVar[Mapping[str, int]] = {"rank": 8, "seed": 0}

    def _most(self) -> Mapping[str, int]:
        return {"rank": widest(self.modules)}

    def _blocks(self) -> Iterator[Block]:
        rank, bits = self.settings["rank"], np.random.PCG64(self.settings["seed"])
        for module in self.modules:
            size, spread = module.outputs, module.spread
            # V y has a variance of one, whatever y's: there gelu is neither dead nor linear.
            start = even(size, (rank, size), bits) / np.float32(spread)
            yield Block(f"{module.name}.down", start.shape, math.sqrt(1 / size) / spread, start)
            scale = self._share * spread / math.sqrt(rank)
            yield Block(f"{module.name}.up", (size, rank), scale)
