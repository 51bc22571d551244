"""LoRA: low-rank terms beside frozen matrices (Hu et al., 2022, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from blackbox_delta.deltas.blocks import Block, ModuleDelta, even, widest
from blackbox_delta.deltas.peft import LinearTerm, LinearTerms, PeftAdapter, low_rank_adapter
from blackbox_delta.deltas.targets import ALL_LINEAR
from blackbox_delta.types import FloatArray


class LoRA(ModuleDelta):
    """y + B A x, with A (r, inputs) and B (outputs, r): equation 3, with α = r.

    A starts at random and B at zero, so z = 0 is the untuned model.

    Args:
        modules: Linear layers.
        rank: r.
        seed: Determines where A starts.
    """

    kind = "lora"
    targets = ALL_LINEAR
    defaults: ClassVar[Mapping[str, int]] = {"rank": 4, "seed": 0}

    def _most(self) -> Mapping[str, int]:
        return {"rank": widest(self.modules)}

    def _blocks(self) -> Iterator[Block]:
        rank, bits = self.settings["rank"], np.random.PCG64(self.settings["seed"])
        for module in self.modules:
            start = even(module.inputs, (rank, module.inputs), bits)
            yield Block(f"{module.name}.lora_A", start.shape, math.sqrt(1 / module.inputs), start)
            # A x is as large as x; B makes of it what is as large as y.
            scale = self._share * module.spread / (module.level * math.sqrt(rank))
            yield Block(f"{module.name}.lora_B", (module.outputs, rank), scale)

    def terms(self, tensors: Mapping[str, FloatArray]) -> LinearTerms:
        """What one candidate adds to linear modules, for PEFT."""
        return {
            module.name: LinearTerm(
                tensors[f"{module.name}.lora_A"], tensors[f"{module.name}.lora_B"]
            )
            for module in self.modules
        }

    def peft(self, tensors: Mapping[str, FloatArray]) -> PeftAdapter:
        """One candidate's tensors as PEFT's LoRA."""
        return low_rank_adapter([self.terms(tensors)])
