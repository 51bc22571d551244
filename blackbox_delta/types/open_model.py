"""What else can be asked of a model whose weights are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from blackbox_delta.types.arrays import FloatArray
from blackbox_delta.types.deltas import DeltaBatch

#: Kinds of delta that act as a module's own weights could, and may be merged into them.
MERGEABLE = frozenset({"lora", "tiny-lora", "ia3", "bitfit", "last-layer", "selective", "sparse"})


@runtime_checkable
class OpenModel(Protocol):
    """What a backend can do beside replying whose model's weights are at hand; for exports."""

    def keys_and_values(
        self, token_ids: Sequence[int], slot: DeltaBatch | None = None
    ) -> FloatArray:
        """What attention keeps of words that everything else follows, in every layer.

        Args:
            token_ids: The words' tokens.
            slot: One candidate that fills a single slot, whose soft tokens stand behind the words;
                without it there is at least one word.

        Returns:
            Shape (layers, 2, kv_heads, tokens, head_size), keys before values, positions applied.

        Raises:
            UnsupportedError: They cannot be told.
        """
        ...

    def singular_factors(self, module: str, rank: int) -> tuple[FloatArray, FloatArray]:
        """The largest singular values and vectors of a linear module's matrix W = U Σ V.

        Args:
            module: Its name.
            rank: r, how many of them.

        Returns:
            U Σ (outputs, r) and V (r, inputs), with the signs that ``tiny-lora`` goes by.
        """
        ...

    @property
    def takes_embeddings(self) -> bool:
        """Whether it makes of embeddings what it makes of the tokens that they are of.

        Models that scale what they look up themselves do not.
        """
        ...

    def is_torch_linear(self, module: str) -> bool:
        """Whether a module is torch's own linear layer or a subclass of it."""
        ...

    def lora_objection(self, modules: Sequence[str]) -> str | None:
        """Why PEFT would not act at one of these modules as a LoRA tells it to.

        Returns:
            The beginning of a sentence; ``None`` where it would.
        """
        ...

    def save_merged(self, delta: DeltaBatch, folder: Path) -> None:
        """Writes the model with a delta merged into its weights; the open model stays as it is.

        Args:
            delta: One candidate.
            folder: A folder that is there; it gets weights, configuration and tokenizer.

        Raises:
            ExportError: A kind of delta, or what it acts on, has no weights to be merged into, or
                the model cannot be written.
        """
        ...
