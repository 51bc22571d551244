"""Whole matrices of a few modules: chosen ones, random ones, or the last layer's.

Selective tuning in a random subspace, as intrinsic dimension measures it (Aghajanyan et al., 2021,
arXiv 2012.13255). Each candidate has its own W + ΔW, of which ΔW alone is a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.targets import LAST_LAYER


class Selective(ModuleDelta):
    """y + ΔW x, with ΔW (outputs, inputs); z = 0 is the untuned model.

    Args:
        modules: Linear layers.
    """

    kind = "selective"
    targets = "random:4"

    def _blocks(self) -> Iterator[Block]:
        for module in self.modules:
            scale = self._share * module.spread / (module.level * math.sqrt(module.inputs))
            yield Block(f"{module.name}.weight", (module.outputs, module.inputs), scale)


class LastLayer(Selective):
    """The linear layers of the last layer."""

    kind = "last-layer"
    targets = LAST_LAYER
