"""Which tokens to ask for beside the label words, where a server tells those that are asked for.

Such a server gives chosen tokens in place of the likeliest ones. The label words' nearest
neighbours in the embedding table then serve the heads as the likeliest tokens do elsewhere: a
fixed set, known before anything is asked, and exact for every prompt. (A verbalizer widened by
related words: Hu et al. 2022, "Knowledgeable Prompt-tuning", arXiv:2108.02035; theirs come from
knowledge bases.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blackbox_delta.types import EmbeddingTable, FloatArray

_ROWS = 8192
_CENTRE = 4096


def neighbours(table: EmbeddingTable, tokens: Sequence[int], count: int) -> tuple[int, ...]:
    """The ``count`` tokens nearest to any of ``tokens``, none of those among them.

    Nearness is the cosine after the table's mean was taken off, which all embeddings share. Each
    of ``tokens`` takes its next neighbour in turn.

    Args:
        table: The input embeddings.
        tokens: c token ids.
        count: How many to find; fewer than the table has.
    """
    spaced = np.linspace(0, table.vocabulary_size - 1, min(_CENTRE, table.vocabulary_size))
    centre = table.rows([int(row) for row in spaced]).mean(axis=0)
    anchors = _directions(table.rows(tokens) - centre)
    cosines = np.concatenate(
        [
            _directions(
                table.rows(range(start, min(start + _ROWS, table.vocabulary_size))) - centre
            )
            @ anchors.T
            for start in range(0, table.vocabulary_size, _ROWS)
        ]
    )
    # Rounded, so that the last digits of a sum decide nothing.
    ranked = np.argsort(-cosines.round(5), axis=0, kind="stable")
    in_turn = dict.fromkeys(ranked.ravel().tolist())
    labels = set(tokens)
    return tuple(token for token in in_turn if token not in labels)[:count]


def _directions(rows: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: FloatArray = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions
