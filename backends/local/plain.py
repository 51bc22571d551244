"""Scoring by whole sequences: masked and sequence-to-sequence models, and unusual causal ones.

Every candidate × example × answer form is one padded row. For sequence-to-sequence models whose
delta leaves the encoder alone, the encoder's output is computed once per run. Prefixes stand in
front of every row of a masked model, and of every row that a decoder reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.batching import (
    MemoryLimit,
    in_chunks,
    packs_by_length,
    split_when_too_large,
)
from blackbox_delta.backends.local.candidates import PREFIX, Candidates
from blackbox_delta.backends.local.decoder_fronts import DecoderFronts
from blackbox_delta.backends.local.fronts import Fronts
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.layout import SoftTokens, embed, padded
from blackbox_delta.backends.local.lower_layers import LowerLayers
from blackbox_delta.backends.local.reading import (
    Readings,
    Targets,
    logits_at,
    read_logits,
    trunk_of,
)
from blackbox_delta.backends.local.terms import TERMS
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
from blackbox_delta.types import DEEP_PROMPT, IN_SLOTS, IntArray


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
class _Rows:
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
    ) -> _Rows:
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

    def select(self, rows: list[int]) -> _Rows:
        """Some of the rows."""
        return _Rows(
            [self.encoder[row] for row in rows], [self.own[row] for row in rows], self.reads[rows]
        )


class PlainEngine:
    """Scores by whole sequences.

    Args:
        model: A causal, masked or sequence-to-sequence language model.
        kind: Which of them: ``"causal"``, ``"masked"`` or ``"seq2seq"``.
        limit: What one forward pass may take.
        mask_token: Id of the mask (masked models).
        fronts: Puts prefixes in front (masked and sequence-to-sequence models that take them).
    """

    def __init__(
        self,
        model: Any,
        kind: str,
        limit: MemoryLimit,
        mask_token: int | None = None,
        fronts: Fronts | DecoderFronts | None = None,
    ) -> None:
        self._model = model
        self._kind = kind
        self._limit = limit
        self._mask_token = mask_token
        self.fronts = fronts
        self._kept = Kept(limit.bytes)
        self.lower_layers = LowerLayers(model, self._kept)
        self._trunk = trunk_of(model)
        self._embeddings = model.get_input_embeddings()
        self._in_encoder = frozenset(model.get_encoder().modules() if kind == "seq2seq" else ())
        self.computed_tokens = 0

    @property
    def deltas(self) -> frozenset[str]:
        """Kinds of delta that it can apply."""
        taken = frozenset({*IN_SLOTS, *TERMS, *((PREFIX,) if self.fronts else ())})
        # An encoder and a decoder are two rows of layers, each with tokens of its own.
        return taken - {DEEP_PROMPT} if self._kind == "seq2seq" else taken

    @property
    def embeddings(self) -> Any:
        """Token ids to embeddings."""
        return self._embeddings

    def score(
        self,
        prompts: Sequence[EncodedPrompt],
        choices: Sequence[Ids],
        candidates: Candidates,
        top_k: int,
        assignment: Sequence[int] | None = None,
    ) -> Readings:
        """Readings of shape (λ, n, …); (1, n, …) where each prompt is assigned a candidate."""
        count = len(candidates) if assignment is None else 1
        readings = Readings.empty(count, len(prompts), len(choices), top_k)
        if self._mask_token is not None:
            forms = maskings(choices, self._mask_token)
        else:
            forms = continuations(choices)
        for form in forms if prompts else ():
            rows = _Rows.of(prompts, form, candidates.soft, leads=self._kind == "masked")
            self._score_form(rows, form, candidates, readings, assignment)
        return readings

    def release(self) -> None:
        """Drops what is kept."""
        self._kept.clear()

    def _score_form(
        self,
        rows: _Rows,
        form: AnswerForm,
        candidates: Candidates,
        readings: Readings,
        assignment: Sequence[int] | None,
    ) -> None:
        lengths = rows.lengths
        longest = max(map(sum, lengths))
        device = candidates.soft.vectors.device
        targets = Targets.build(form.entries, readings.label_logprobs.shape[2], device)
        # The first form's first position is where any answer starts: the top tokens' place.
        top_k = readings.top_ids.shape[2] if form.first else 0

        in_front = len(candidates.prefix.token_ids)

        def fit() -> int:
            return self._limit.rows(longest, in_front + longest, form.reads, in_front)

        def evaluate(pack: list[int], some: Candidates, chunk: slice) -> None:
            logits = self._forward_upper(rows.select(pack), some)
            scores, ids, logprobs = read_logits(logits, targets, top_k)
            grid = scores.reshape(-1, len(pack), scores.shape[1])
            for choice in form.choices:
                readings.label_logprobs[chunk, pack, choice] = grid[:, :, choice]
            if top_k:
                readings.top_ids[chunk, pack] = ids.reshape(-1, len(pack), top_k)
                readings.top_logprobs[chunk, pack] = logprobs.reshape(-1, len(pack), top_k)

        def work_on(pack: list[int]) -> None:
            if assignment is None:
                in_chunks(
                    len(candidates),
                    lambda: max(1, fit() // len(pack)),
                    self._limit,
                    lambda chunk: evaluate(pack, candidates.select(chunk), chunk),
                )
                return

            def work(part: slice) -> None:
                own = [assignment[row] for row in pack[part]]
                some = replace(candidates.of_rows(own), prefix=candidates.prefix.select(own))
                evaluate(pack[part], some, slice(0, 1))

            in_chunks(
                len(pack),
                lambda: self._limit.of_own(fit(), candidates.inside.bytes_each),
                self._limit,
                work,
            )

        computed = [(*each, sum(each)) for each in lengths]
        copies = 1 if assignment is not None else len(candidates)
        for pack in packs_by_length(computed, fit(), candidates.padding(self._limit, copies)):
            split_when_too_large(pack, fit, self._limit, work_on)

    def _forward_upper(self, rows: _Rows, some: Candidates) -> torch.Tensor:
        """What :meth:`_forward` says, of which candidates compute what they differ in."""

        def through() -> None:
            self._forward(rows, some.untuned())

        key = (some.prefix.token_ids, *(row.tobytes() for row in rows.own))
        passed = self.lower_layers.passed(key, some.untouched, through)
        with passed.instead(some.copies) if passed else nullcontext():
            return self._forward(rows, some)

    def _forward(self, rows: _Rows, some: Candidates) -> torch.Tensor:
        """Logits (λ·rows, p, vocabulary) at the positions to be read."""
        vectors = some.soft.vectors
        candidates, device = some.copies, vectors.device
        codes, lengths = padded(rows.own, "right")
        batch = embed(codes, vectors, self._embeddings, own=some.own).flatten(0, 1)
        mask = self._mask(codes, lengths, candidates, device)
        positions = torch.from_numpy(rows.reads).to(device).repeat(candidates, 1)
        if self._kind == "seq2seq":
            states, states_mask = self._encode(rows.encoder, some)
            inputs = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=states),
                "attention_mask": states_mask,
                "decoder_inputs_embeds": batch,
                "decoder_attention_mask": mask,
            }
        else:
            inputs = {"inputs_embeds": batch, "attention_mask": mask}
        if self._kind != "masked":
            inputs["use_cache"] = False
        with self._in_front(some, inputs) as given, some.acting(codes):
            logits = logits_at(self._model, self._trunk, positions, given)
        self.computed_tokens += candidates * int(lengths.sum())
        return logits

    def _in_front(
        self, some: Candidates, inputs: dict[str, Any]
    ) -> AbstractContextManager[dict[str, Any]]:
        """What the model is given, with the candidates' prefixes, for one forward pass."""
        if self.fronts is None or not some.prefix:
            return nullcontext(inputs)
        fronts, token_ids = self.fronts, some.prefix.token_ids

        def alone() -> PrefixCache:
            self.computed_tokens += len(token_ids) * (2 if self._kind == "seq2seq" else 1)
            return fronts.alone(np.array([token_ids]))

        words = self._kept.get(("words", token_ids), alone)
        return fronts.acting(some.prefix.on(words, len(some)), inputs)

    def _encode(self, rows: list[IntArray], some: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder output (λ·rows, m, hidden) and its mask; reused where all candidates agree."""
        vectors = some.soft.vectors
        codes, lengths = padded(rows, "right")
        mask = self._mask(codes, lengths, some.copies, vectors.device)
        if some.inside.touches(self._in_encoder) or any((row < 0).any() for row in rows):
            batch = embed(codes, vectors, self._embeddings, own=some.own).flatten(0, 1)
            with some.inside.acting():
                encoded = self._model.get_encoder()(inputs_embeds=batch, attention_mask=mask)
            self.computed_tokens += some.copies * int(lengths.sum())
            return encoded.last_hidden_state, mask

        def encode() -> torch.Tensor:
            batch = embed(codes, vectors[:1], self._embeddings).flatten(0, 1)
            self.computed_tokens += int(lengths.sum())
            states: torch.Tensor = self._model.get_encoder()(
                inputs_embeds=batch, attention_mask=mask[: len(rows)]
            ).last_hidden_state
            return states

        states = self._kept.get(("encoder", *(row.tobytes() for row in rows)), encode)
        return states.repeat(some.copies, 1, 1), mask

    @staticmethod
    def _mask(
        codes: IntArray, lengths: IntArray, candidates: int, device: torch.device
    ) -> torch.Tensor:
        mask = np.arange(codes.shape[1]) < lengths[:, None]
        return torch.from_numpy(mask.astype(np.int64)).to(device).repeat(candidates, 1)
