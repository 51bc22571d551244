"""Scoring by whole sequences: masked and sequence-to-sequence models, and unusual causal ones.

Every candidate × example × answer form is one padded row. For sequence-to-sequence models whose
delta leaves the encoder alone, the encoder's output is computed once per run. Prefixes stand in
front of every row of a masked model, and of every row that a decoder reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import MoEModelOutput

from blackbox_delta.backends.local.answer_forms import AnswerForm, Rows, continuations, maskings
from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.batching import (
    MemoryLimit,
    in_chunks,
    packs_by_length,
    packs_of_equal_length,
    split_when_too_large,
)
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.decoder_fronts import DecoderFronts
from blackbox_delta.backends.local.deep import in_slots_of
from blackbox_delta.backends.local.feeding import Entrance
from blackbox_delta.backends.local.fronts import Fronts
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.layout import embed, padded
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
from blackbox_delta.types import PREFIX, IntArray


class PlainEngine:
    """Scores by whole sequences.

    Args:
        model: A causal, masked or sequence-to-sequence language model.
        kind: Which of them: ``"causal"``, ``"masked"`` or ``"seq2seq"``.
        limit: What one forward pass may take.
        mask_token: Id of the mask (masked models).
        fronts: Puts prefixes in front (masked and sequence-to-sequence models that take them).
        by_ids: Whether the model is given token ids.
        pads: Whether texts of different lengths may stand in a batch, the shorter ones padded.
        slots: Whether there may be soft tokens among them.

    Attributes:
        limit: What one forward pass may take.
        lower_layers: The layers that are passed once where candidates differ above them alone.
        computed_tokens: Tokens that went through so far, padding not counted.
    """

    def __init__(
        self,
        model: Any,
        kind: str,
        limit: MemoryLimit,
        mask_token: int | None = None,
        fronts: Fronts | DecoderFronts | None = None,
        *,
        by_ids: bool = False,
        pads: bool = True,
        slots: bool = True,
    ) -> None:
        self._model = model
        self._kind = kind
        self.limit = limit
        self._mask_token = mask_token
        self.fronts = fronts
        self._kept = Kept(limit.bytes)
        self.lower_layers = LowerLayers(model, self._kept)
        self._trunk = trunk_of(model)
        self._pads, self._slots, seq2seq = pads, slots, kind == "seq2seq"
        self._entrance = Entrance.of(model, by_ids=by_ids)
        self._own = Entrance.of_decoder(model, by_ids=by_ids) if seq2seq else self._entrance
        self._in_encoder = frozenset(model.get_encoder().modules() if seq2seq else ())
        self.computed_tokens = 0

    @property
    def deltas(self) -> frozenset[str]:
        """Kinds of delta that it can apply."""
        in_slots = in_slots_of(self._model) if self._slots else ()
        return frozenset({*in_slots, *TERMS, *((PREFIX,) if self.fronts else ())})

    @property
    def by_ids(self) -> bool:
        """Whether the model is given token ids."""
        return self._entrance.by_ids

    @property
    def embeddings(self) -> Any:
        """Token ids to embeddings."""
        return self._entrance.table

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
            rows = Rows.of(prompts, form, candidates.soft, leads=self._kind == "masked")
            job = _Job(self.limit, self._forward_upper, rows, form, candidates, readings)
            job.run(assignment, pads=self._pads)
        return readings

    def release(self) -> None:
        """Drops what is kept."""
        self._kept.clear()

    def _forward_upper(self, rows: Rows, some: Candidates) -> torch.Tensor:
        """What :meth:`_forward` says, of which candidates compute what they differ in."""

        def through() -> None:
            self._forward(rows, some.untuned())

        # A front tells layers by how often the model has attended: with one, none is left out.
        count = 0 if some.prefix else some.untouched
        passed = self.lower_layers.passed(tuple(row.tobytes() for row in rows.own), count, through)
        with passed.instead(some.copies) if passed else nullcontext():
            return self._forward(rows, some)

    def _forward(self, rows: Rows, some: Candidates) -> torch.Tensor:
        """Logits (λ·rows, p, vocabulary) at the positions to be read."""
        vectors = some.soft.vectors
        candidates, device = some.copies, vectors.device
        codes, lengths = padded(rows.own, "right")
        batch = embed(codes, vectors, self._own.table, own=some.own).flatten(0, 1)
        mask = self._mask(codes, lengths, candidates, device)
        positions = torch.from_numpy(rows.reads).to(device).repeat(candidates, 1)
        if self._kind == "seq2seq":
            states, states_mask = self._encode(rows.encoder, some)
            inputs = {
                "encoder_outputs": MoEModelOutput(last_hidden_state=states),
                "attention_mask": states_mask,
                "decoder_attention_mask": mask,
            }
        else:
            inputs = {"attention_mask": mask}
        if self._kind != "masked":
            inputs["use_cache"] = False
        acting, fed = some.acting(codes), self._own.fed(codes, batch)
        with self._in_front(some, inputs) as given, acting, fed as words:
            logits = logits_at(self._model, self._trunk, positions, {**given, **words})
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
            batch = embed(codes, vectors, self._entrance.table, own=some.own).flatten(0, 1)
            self.computed_tokens += some.copies * int(lengths.sum())
            with some.inside.acting():
                return self._states(codes, batch, mask), mask

        def encode() -> torch.Tensor:
            batch = embed(codes, vectors[:1], self._entrance.table).flatten(0, 1)
            self.computed_tokens += int(lengths.sum())
            return self._states(codes, batch, mask[: len(rows)])

        states = self._kept.get(("encoder", *(row.tobytes() for row in rows)), encode)
        return states.repeat(some.copies, 1, 1), mask

    def _states(self, codes: IntArray, batch: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the encoder puts out."""
        with self._entrance.fed(codes, batch) as given:
            encoded = self._model.get_encoder()(**given, attention_mask=mask)
        states: torch.Tensor = encoded.last_hidden_state
        return states

    @staticmethod
    def _mask(
        codes: IntArray, lengths: IntArray, candidates: int, device: torch.device
    ) -> torch.Tensor:
        mask = np.arange(codes.shape[1]) < lengths[:, None]
        return torch.from_numpy(mask.astype(np.int64)).to(device).repeat(candidates, 1)


class _Job:
    """One answer form of a request on its way through the engine.

    Args:
        limit: What one forward pass may take.
        forward: Logits (λ·rows, p, vocabulary) of rows under candidates.
        rows: A row for each of n prompts.
        form: What they end in, and which answers are read of it.
        candidates: Under which they are scored.
        readings: Where the scores go.
    """

    def __init__(
        self,
        limit: MemoryLimit,
        forward: Callable[[Rows, Candidates], torch.Tensor],
        rows: Rows,
        form: AnswerForm,
        candidates: Candidates,
        readings: Readings,
    ) -> None:
        self._limit = limit
        self._forward = forward
        self._rows = rows
        self._longest = max(map(sum, rows.lengths))
        self._form = form
        self._candidates = candidates
        self._readings = readings
        device = candidates.soft.vectors.device
        self._targets = Targets.build(form.entries, readings.label_logprobs.shape[2], device)
        # The first form's first position is where any answer starts: the top tokens' place.
        self._top_k = readings.top_ids.shape[2] if form.first else 0

    def run(self, assignment: Sequence[int] | None, *, pads: bool) -> None:
        """All rows under all candidates, or each under the one that it is assigned."""
        copies = 1 if assignment is not None else len(self._candidates)
        work = self._under_all if assignment is None else partial(self._assigned, assignment)
        for pack in self._packs(copies, pads=pads):
            split_when_too_large(pack, self._fit, self._limit, work)

    def _packs(self, copies: int, *, pads: bool) -> list[list[int]]:
        lengths = self._rows.lengths
        if not pads:
            return packs_of_equal_length(lengths, self._fit())
        computed = [(*each, sum(each)) for each in lengths]
        return packs_by_length(computed, self._fit(), self._candidates.padding(self._limit, copies))

    def _fit(self) -> int:
        """Rows that fit into a pass, the longest of all."""
        in_front = len(self._candidates.prefix.token_ids)
        visible = in_front + self._longest
        return self._limit.rows(self._longest, visible, self._form.reads, in_front)

    def _under_all(self, pack: list[int]) -> None:
        in_chunks(
            len(self._candidates),
            lambda: max(1, self._fit() // len(pack)),
            self._limit,
            lambda chunk: self._evaluate(pack, self._candidates.select(chunk), chunk),
        )

    def _assigned(self, assignment: Sequence[int], pack: list[int]) -> None:
        candidates = self._candidates

        def work(part: slice) -> None:
            own = [assignment[row] for row in pack[part]]
            some = replace(candidates.of_rows(own), prefix=candidates.prefix.select(own))
            self._evaluate(pack[part], some, slice(0, 1))

        each = candidates.inside.bytes_each
        in_chunks(len(pack), lambda: self._limit.of_own(self._fit(), each), self._limit, work)

    def _evaluate(self, pack: list[int], some: Candidates, chunk: slice) -> None:
        """Scores a pack under some candidates and stores them as those of ``chunk``."""
        readings, top_k = self._readings, self._top_k
        logits = self._forward(self._rows.select(pack), some)
        scores, ids, logprobs = read_logits(logits, self._targets, top_k)
        grid = scores.reshape(-1, len(pack), scores.shape[1])
        for choice in self._form.choices:
            readings.label_logprobs[chunk, pack, choice] = grid[:, :, choice]
        if top_k:
            readings.top_ids[chunk, pack] = ids.reshape(-1, len(pack), top_k)
            readings.top_logprobs[chunk, pack] = logprobs.reshape(-1, len(pack), top_k)
