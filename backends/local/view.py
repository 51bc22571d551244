"""What each example of a pack sees: a shared prefix, its own tokens, and the tree of answers.

Label words of several tokens hang behind the prompt as a tree, each branch blind to the others,
so that all choices are scored in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.layout import padded
from blackbox_delta.backends.prompt_encoder import Ids
from blackbox_delta.types import IntArray


@dataclass(frozen=True)
class AnswerTree:
    """All choices behind one prompt: a node for every beginning of a label word but its whole.

    Attributes:
        tokens: (T,) the nodes' tokens; T = 0 when all label words are single tokens.
        depth: (T,) 1 for the children of the prompt.
        sees: (T, T) whether a node is another's ancestor or itself.
        entries: (position, token, choice) to be read; position 0 is the end of the prompt.
    """

    tokens: IntArray
    depth: IntArray
    sees: np.ndarray[Any, np.dtype[np.bool_]]
    entries: list[tuple[int, int, int]]

    @property
    def key(self) -> tuple[bytes, bytes]:
        """The same for the same tree alone."""
        return self.tokens.tobytes(), self.sees.tobytes()

    @classmethod
    def of(cls, choices: Sequence[Ids]) -> AnswerTree:
        """The tree of the given label words."""
        nodes: dict[Ids, int] = {}
        entries = []
        for choice, ids in enumerate(choices):
            for depth, token in enumerate(ids):
                position = 0 if depth == 0 else 1 + nodes.setdefault(ids[:depth], len(nodes))
                entries.append((position, token, choice))
        sees = np.array([[a == b[: len(a)] for a in nodes] for b in nodes], dtype=bool)
        return cls(
            np.array([node[-1] for node in nodes], dtype=np.int64),
            np.array([len(node) for node in nodes], dtype=np.int64),
            sees.reshape(len(nodes), len(nodes)),
            entries,
        )


@dataclass(frozen=True)
class View:
    """What each example of a pack sees: its shared prefix, its own tokens, the answer tree.

    Attributes:
        codes: (p, M) own tokens, padded on the left, then the tree's nodes; M = width.
        visible: (p, M, L + M).
        positions: (p, M).
        key_positions: (p, L + M).
        end: Index of the last own token, where the answer starts.
        real_tokens: Tokens that are not padding.
    """

    codes: IntArray
    visible: torch.Tensor
    positions: torch.Tensor
    key_positions: torch.Tensor
    end: int
    real_tokens: int

    @property
    def width(self) -> int:
        """M."""
        return int(self.codes.shape[1])

    @classmethod
    def of(
        cls,
        tails: list[IntArray],
        prefix_lengths: list[int],
        tree: AnswerTree,
        device: torch.device,
    ) -> View:
        """The view of examples with these own tokens behind prefixes of these lengths."""
        own, lengths = padded(tails, "left")
        m, nodes, past = own.shape[1], len(tree.tokens), max(prefix_lengths)
        prefix = np.array(prefix_lengths)[:, None]
        pads = (m - lengths)[:, None]
        tree_positions = prefix + lengths[:, None] + tree.depth - 1
        positions = np.concatenate(
            [np.maximum(prefix + np.arange(m) - pads, 0), tree_positions], axis=1
        )
        past_positions = np.arange(past) - (past - prefix)
        square = np.tril(np.ones((m + nodes, m + nodes), dtype=bool))
        square[m:, m:] = tree.sees
        itself = np.eye(m + nodes, dtype=bool)
        real = np.concatenate([np.arange(m) >= pads, np.ones((len(tails), nodes), bool)], axis=1)
        visible = np.concatenate(
            [
                np.broadcast_to((past_positions >= 0)[:, None], (len(tails), m + nodes, past)),
                (square & real[:, None]) | itself,
            ],
            axis=2,
        )
        codes = np.concatenate([own, np.tile(tree.tokens, (len(tails), 1))], axis=1)
        return cls(
            codes,
            torch.from_numpy(visible).to(device),
            torch.from_numpy(positions).to(device),
            torch.from_numpy(np.concatenate([past_positions, positions], axis=1)).to(device),
            m - 1,
            int(lengths.sum()) + nodes * len(tails),
        )

    @staticmethod
    def repeated(values: torch.Tensor, candidates: int, *, by_example: bool) -> torch.Tensor:
        """One row per (group, row): examples outermost, or candidates outermost."""
        if by_example:
            return values.repeat_interleave(candidates, dim=0)
        return values.repeat(candidates, *(1 for _ in values.shape[1:]))
