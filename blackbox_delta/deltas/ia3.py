"""(IA)³: keys, values and feed-forward activations scaled (Liu et al., 2022, arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Iterator

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.targets import ends_feed_forward

#: The part's name where what goes in is scaled, and where what comes out is.
BEFORE, AFTER = "scale_in", "scale_out"


class IA3(ModuleDelta):
    """l ⊙ y for keys and values, W (l ⊙ x) where a feed-forward block ends (section 3.3).

    Scales start at one, so z = 0 is the untuned model.

    Args:
        modules: Linear layers.
    """

    kind = "ia3"

    def _blocks(self) -> Iterator[Block]:
        for module in self.modules:
            before = ends_feed_forward(module)
            size = module.inputs if before else module.outputs
            name = f"{module.name}.{BEFORE if before else AFTER}"
            yield Block(name, (size,), self._share, 1.0)
