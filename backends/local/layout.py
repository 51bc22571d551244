"""Sequences as arrays of codes, and how they become embeddings.

A code is a token id, or -(1 + s) for the s-th soft token of a candidate: slots are numbered
through in the order of their names, so that one (λ, S, hidden) tensor holds a candidate's whole
soft prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from blackbox_delta.backends.prompt_encoder import Piece
from blackbox_delta.types import DeltaBatch, IntArray, SoftSlot


@dataclass(frozen=True)
class SoftTokens:
    """The soft prompts of λ candidates side by side.

    Attributes:
        vectors: (λ, S, hidden); S = 0 for the untuned model.
        first: Slot name to its first soft token.
        lengths: Slot name to its number of soft tokens.
    """

    vectors: torch.Tensor
    first: dict[str, int]
    lengths: dict[str, int]

    @classmethod
    def of(
        cls,
        delta: DeltaBatch | None,
        hidden: int,
        dtype: torch.dtype,
        device: torch.device,
        count: int = 1,
    ) -> SoftTokens:
        """From a soft-prompt delta, or none for ``count`` candidates."""
        if delta is None:
            return cls(torch.zeros(count, 0, hidden, dtype=dtype, device=device), {}, {})
        names = sorted(delta.tensors)
        lengths = {name: delta.tensors[name].shape[1] for name in names}
        starts = np.cumsum([0, *lengths.values()])
        stacked = np.concatenate([delta.tensors[name] for name in names], axis=1)
        vectors = torch.from_numpy(np.ascontiguousarray(stacked)).to(device=device, dtype=dtype)
        return cls(vectors, dict(zip(names, starts.tolist(), strict=False)), lengths)

    @property
    def count(self) -> int:
        """S."""
        return int(self.vectors.shape[1])

    def codes(self, pieces: Sequence[Piece]) -> IntArray:
        """The pieces as one array of codes."""
        parts: list[Sequence[int]] = []
        for piece in pieces:
            if isinstance(piece, SoftSlot):
                start, count = self.first.get(piece.name, 0), self.lengths.get(piece.name, 0)
                parts.append([-(1 + start + token) for token in range(count)])
            else:
                parts.append(piece)
        return np.array([code for part in parts for code in part], dtype=np.int64)


def padded(rows: Sequence[IntArray], side: str) -> tuple[IntArray, IntArray]:
    """Rows of codes as one (rows, m) array, filled with token 0, and their lengths (rows,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    width = int(lengths.max(initial=0))
    codes = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        if side == "left":
            codes[index, width - len(row) :] = row
        else:
            codes[index, : len(row)] = row
    return codes, lengths


def common_lead(rows: Sequence[IntArray]) -> int:
    """Length of the longest common beginning that leaves every row at least one code."""
    shortest = min(len(row) for row in rows) - 1
    stack = np.stack([row[:shortest] for row in rows])
    same = (stack == stack[0]).all(axis=0)
    return int(np.argmin(same)) if not same.all() else shortest


def first_own(row: IntArray) -> int:
    """Index of the first soft token, or of the last code where there is none.

    What precedes it is the same for all candidates, and at least one code is left: the one behind
    which the answer is read.
    """
    soft = np.flatnonzero(row < 0)
    return int(soft[0]) if len(soft) else len(row) - 1


def embed(
    codes: IntArray,
    vectors: torch.Tensor,
    embeddings: Callable[[torch.Tensor], torch.Tensor],
    *,
    own: bool = False,
) -> torch.Tensor:
    """Embeddings (λ, rows, m, hidden) of codes (rows, m) under each of λ candidates.

    Args:
        codes: (rows, m).
        vectors: (λ, S, hidden) soft tokens.
        embeddings: Token ids to embeddings.
        own: Whether row i is of candidate i alone; then λ = rows, and the result is
            (1, rows, m, hidden).
    """
    words = embeddings(torch.from_numpy(np.maximum(codes, 0)).to(vectors.device))
    batch = words.to(vectors.dtype).expand(1 if own else len(vectors), *words.shape)
    row, position = np.nonzero(codes < 0)
    if len(row):
        batch = batch.clone()
        soft = -codes[row, position] - 1
        batch[:, row, position] = vectors[row, soft] if own else vectors[:, soft]
    return batch
