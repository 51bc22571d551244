"""BitFit: offsets alone (Ben Zaken et al., 2022, arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.peft import OUTER, LinearTerm, LinearTerms, PeftAdapter
from blackbox_delta.deltas.targets import ALL
from blackbox_delta.types import FloatArray, Json


class BitFit(ModuleDelta):
    """y + b, also for modules that have no offset of their own; z = 0 is the untuned model.

    Args:
        modules: Linear layers and norms.
    """

    kind = "bitfit"
    targets = ALL
    needs_matrices = False

    def _blocks(self) -> Iterator[Block]:
        for module in self.modules:
            yield Block(f"{module.name}.offset", (module.outputs,), self._share * module.spread)

    def terms(self, tensors: Mapping[str, FloatArray]) -> LinearTerms:
        """What one candidate adds to linear modules, for PEFT."""
        return {
            module.name: LinearTerm(
                np.zeros((0, module.inputs), np.float32),
                np.zeros((module.outputs, 0), np.float32),
                tensors[f"{module.name}.offset"],
            )
            for module in self.modules
        }

    def peft(self, tensors: Mapping[str, FloatArray]) -> PeftAdapter:
        """One candidate's tensors as PEFT's BEFT, which has offsets for linear layers."""
        config: Json = {
            "peft_type": "BEFT",
            "target_modules": [module.name for module in self.modules],
        }
        named = {
            f"{OUTER}{module.name}.beft_bias": tensors[f"{module.name}.offset"][None]
            for module in self.modules
        }
        return PeftAdapter(config, named)
