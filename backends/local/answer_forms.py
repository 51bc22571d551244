"""Whole sequences: the ways of putting an answer into them, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
from blackbox_delta.types import IntArray


@dataclass(frozen=True)
class AnswerForm:
    """One way of putting an answer into a sequence, and what is read from it.

    Attributes:
        filling: Tokens at the answer slot.
        reads: Number of positions read, the first where the answer starts.
        entries: (position, token, choice).
        choices: The choices that this form completes.
        first: Whether it is the first form of a request.
    """

    filling: Ids
    reads: int
    entries: list[tuple[int, int, int]]
    choices: list[int]
    first: bool


def continuations(choices: Sequence[Ids]) -> list[AnswerForm]:
    """Causal and decoder answers: all single tokens at once, longer label words one by one."""
    single = [index for index, ids in enumerate(choices) if len(ids) == 1]
    forms: list[AnswerForm] = []
    if single:
        forms.append(AnswerForm((), 1, [(0, choices[i][0], i) for i in single], single, True))
    for index, ids in enumerate(choices):
        if len(ids) > 1:
            entries = [(depth, token, index) for depth, token in enumerate(ids)]
            forms.append(AnswerForm(ids[:-1], len(ids), entries, [index], not forms))
    return forms


def maskings(choices: Sequence[Ids], mask: int) -> list[AnswerForm]:
    """Masked answers: label words of the same number of tokens share a row of masks."""
    forms: list[AnswerForm] = []
    for count in sorted({len(ids) for ids in choices}):
        group = [index for index, ids in enumerate(choices) if len(ids) == count]
        entries = [
            (depth, token, index) for index in group for depth, token in enumerate(choices[index])
        ]
        forms.append(AnswerForm((mask,) * count, count, entries, group, not forms))
    return forms


@dataclass(frozen=True)
class Rows:
    """What goes through the model for each prompt under one answer form.

    Attributes:
        encoder: Codes for the encoder (sequence-to-sequence models), else empty.
        own: Codes of the sequence that the answer stands in.
        reads: (n, p) positions in ``own`` to be read.
    """

    encoder: list[IntArray]
    own: list[IntArray]
    reads: IntArray

    @classmethod
    def of(
        cls, prompts: Sequence[EncodedPrompt], form: AnswerForm, soft: SoftTokens, *, leads: bool
    ) -> Rows:
        """From prompts; ``leads``: a token is read at its own place, not at the one before."""
        before = [soft.codes(prompt.before) for prompt in prompts]
        filling = np.array(form.filling, dtype=np.int64)
        first = np.array([len(start) - (not leads) for start in before])
        return cls(
            [soft.codes(prompt.encoder) for prompt in prompts],
            [
                np.concatenate([start, filling, soft.codes(prompt.after)])
                for start, prompt in zip(before, prompts, strict=True)
            ],
            first[:, None] + np.arange(form.reads),
        )

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens of each row in the encoder and beyond it."""
        return [(len(a), len(b)) for a, b in zip(self.encoder, self.own, strict=True)]

    def select(self, rows: list[int]) -> Rows:
        """Some of the rows."""
        return Rows(
            [self.encoder[row] for row in rows], [self.own[row] for row in rows], self.reads[rows]
        )
