"""Read access to a model's input embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.types import FloatArray


class LocalEmbeddings:
    """The input embeddings of a local model.

    Args:
        model: The model.
        encoder: Its tokenizer.
        turn: Held while a pass goes through the model, in which its table may answer otherwise.
    """

    def __init__(
        self, model: Any, encoder: PromptEncoder, turn: AbstractContextManager[object]
    ) -> None:
        self._module = model.get_input_embeddings()
        self._encoder = encoder
        self._turn = turn
        self._std: float | None = None

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        return int(self._module.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        return int(self._module.weight.shape[1])

    @property
    def std(self) -> float:
        """Standard deviation over the entries of up to 8,192 evenly spaced rows."""
        if self._std is None:
            spaced = np.linspace(0, self.vocabulary_size - 1, min(8192, self.vocabulary_size))
            self._std = float(self.rows(spaced.astype(int).tolist()).std(dtype=np.float64))
        return self._std

    @property
    def opening(self) -> list[int]:
        """Tokens that the tokenizer puts before every text; often none."""
        return self._encoder.opening

    @torch.inference_mode()
    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), hidden)."""
        ids = torch.tensor(list(token_ids), device=self._module.weight.device)
        with self._turn:
            rows: FloatArray = self._module(ids).float().cpu().numpy()
        return rows

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens."""
        return self._encoder.continuation(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of tokens inside a sequence; special tokens stand for none."""
        return self._encoder.text(token_ids)
