"""(IA)³: keys, values and feed-forward activations scaled (Liu et al., 2022, arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.peft import OUTER, PeftAdapter
from blackbox_delta.deltas.targets import FEED_FORWARD, KEYS_AND_VALUES, ends_feed_forward
from blackbox_delta.types import FloatArray

#: The part's name where what goes in is scaled, and where what comes out is.
BEFORE, AFTER = "scale_in", "scale_out"


class IA3(ModuleDelta):
    """l ⊙ y for keys and values, W (l ⊙ x) where a feed-forward block ends (section 3.3).

    Scales start at one, so z = 0 is the untuned model.

    Args:
        modules: Linear layers.
    """

    kind = "ia3"
    targets = (*KEYS_AND_VALUES, *FEED_FORWARD)

    def _blocks(self) -> Iterator[Block]:
        for module in self.modules:
            before = ends_feed_forward(module)
            size = module.inputs if before else module.outputs
            name = f"{module.name}.{BEFORE if before else AFTER}"
            yield Block(name, (size,), self._share, 1.0)

    def peft(self, tensors: Mapping[str, FloatArray]) -> PeftAdapter:
        """One candidate's tensors as PEFT's IA3."""
        before = [module.name for module in self.modules if ends_feed_forward(module)]
        config = {
            "peft_type": "IA3",
            "target_modules": [module.name for module in self.modules],
            "feedforward_modules": before,
            "init_ia3_weights": True,
        }
        named = {}
        for name, value in tensors.items():
            module, _, part = name.rpartition(".")
            shaped = value[None] if part == BEFORE else value[:, None]
            named[f"{OUTER}{module}.ia3_l"] = shaped
        return PeftAdapter(config, named)
