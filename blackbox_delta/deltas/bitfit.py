"""BitFit: offsets alone (Ben Zaken et al., 2022, arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.targets import ALL


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
