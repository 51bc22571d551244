"""Small cores inside frozen singular vectors (LoRA-XS, Bałazy et al., 2024, arXiv 2405.17604).

TinyLoRA (Morris et al., 2026, arXiv 2602.04118) goes on from there by making the cores from a few
numbers, which modules may share, by random projections, which here is the subspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.peft import LinearTerm, LinearTerms, SingularFactors
from blackbox_delta.deltas.targets import ALL_LINEAR
from blackbox_delta.types import FloatArray


class TinyLoRA(ModuleDelta):
    """y + U Σ R V x, with the r largest singular values of the module's matrix W = U Σ V.

    R (r, r) starts at zero, so z = 0 is the untuned model; R = I would count the largest part of
    what the module puts out twice. U and V are the model's own and never kept.

    Args:
        modules: Linear layers.
        rank: r; less where a module has fewer inputs or outputs.
    """

    kind = "tiny-lora"
    targets = ALL_LINEAR
    defaults: ClassVar[Mapping[str, int]] = {"rank": 2}

    def _blocks(self) -> Iterator[Block]:
        for module in self.modules:
            rank = min(self.settings["rank"], module.inputs, module.outputs)
            yield Block(f"{module.name}.core", (rank, rank), self._share / math.sqrt(rank))

    def terms(self, tensors: Mapping[str, FloatArray], factors: SingularFactors) -> LinearTerms:
        """What one candidate adds to linear modules, U Σ R beside V, for PEFT.

        Args:
            tensors: The candidate's.
            factors: The model's own.
        """
        found: dict[str, LinearTerm] = {}
        for module in self.modules:
            core = tensors[f"{module.name}.core"]
            left, right = factors(module.name, len(core))
            found[module.name] = LinearTerm(right, left @ core)
        return found
