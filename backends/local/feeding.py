"""How sequences are put into a model: as embeddings, or as token ids.

Most models make the same of the embeddings of some tokens as of the tokens. Some do not: they
scale what they look up themselves, or look tokens up in several tables. These are given token ids,
and what their table says of them is exchanged for the embeddings as it is said. Where a soft token
stands they are given token 0, of which nothing but what other tables say is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blackbox_delta.errors import ModelError
from blackbox_delta.types import IntArray


@dataclass(frozen=True)
class Entrance:
    """Where sequences go into a model, or into its decoder.

    Attributes:
        table: Token ids to embeddings; the model's own module.
        by_ids: Whether the model is given token ids.
        side: What names of the model's arguments begin with there.
    """

    table: Any
    by_ids: bool = False
    side: str = ""

    @classmethod
    def of(cls, model: Any, *, by_ids: bool = False) -> Entrance:
        """Of a model, of which it is the encoder's if it has one."""
        two = getattr(model.config, "is_encoder_decoder", False)
        return cls((model.get_encoder() if two else model).get_input_embeddings(), by_ids)

    @classmethod
    def of_decoder(cls, model: Any, *, by_ids: bool = False) -> Entrance:
        """Of the decoder of a sequence-to-sequence model, which may have a table of its own."""
        return cls(model.get_decoder().get_input_embeddings(), by_ids, "decoder_")

    @contextmanager
    def fed(
        self, codes: IntArray, batch: torch.Tensor, *, by_example: bool = False
    ) -> Iterator[dict[str, Any]]:
        """What to give the model, for the time of one forward pass.

        Args:
            codes: (rows, m); negative for soft tokens.
            batch: (λ·rows, m, hidden) their embeddings.
            by_example: Whether the batch is rows × candidates, and not candidates × rows.

        Raises:
            ModelError: The model did not ask its table about them, once.
        """
        if not self.by_ids:
            # Rows of their own: some models change what they are given (CTRL).
            yield {f"{self.side}inputs_embeds": batch.contiguous()}
            return
        asked = 0

        def instead(_module: torch.nn.Module, _inputs: Any, words: torch.Tensor) -> torch.Tensor:
            nonlocal asked
            asked += 1
            return batch.view(words.shape)

        handle = self.table.register_forward_hook(instead)
        try:
            yield {f"{self.side}input_ids": self._ids(codes, batch, by_example)}
        finally:
            handle.remove()
        if asked != 1:
            raise ModelError(
                f"the model asked its embedding table {asked} times in a pass, not once"
            )

    @staticmethod
    def _ids(codes: IntArray, batch: torch.Tensor, by_example: bool) -> torch.Tensor:
        ids = torch.from_numpy(np.maximum(codes, 0)).to(batch.device)
        copies = len(batch) // len(ids)
        return ids.repeat_interleave(copies, dim=0) if by_example else ids.repeat(copies, 1)
