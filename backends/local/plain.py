"""Scoring by whole sequences: masked and sequence-to-sequence models, and unusual causal ones.

Every candidate × example × answer form is one padded row. For sequence-to-sequence models whose
slots all sit in the decoder, the encoder's output is computed once per run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from blackbox_delta.backends.local.batching import MemoryLimit, in_chunks, packs_by_length
from blackbox_delta.backends.local.layout import SoftTokens, embed, padded
from blackbox_delta.backends.local.reading import Readings, Targets, only_positions, read_logits
from blackbox_delta.backends.local.tokens import EncodedPrompt, Ids
from blackbox_delta.types import IntArray


@dataclass(frozen=True)
class AnswerForm:
    """One way of putting an answer into a sequence, and what is read from it.

    Attributes:
        filling: Tokens at the answer slot.
        reads: Number of positions read, the first where the answer starts.
        entries: (position, token, choice).
        choices: The choices that this form completes.
    """

    filling: Ids
    reads: int
    entries: list[tuple[int, int, int]]
    choices: list[int]


def continuations(choices: Sequence[Ids]) -> list[AnswerForm]:
    """Causal and decoder answers: all single tokens at once, longer label words one by one."""
    single = [index for index, ids in enumerate(choices) if len(ids) == 1]
    forms = []
    if single:
        forms.append(AnswerForm((), 1, [(0, choices[i][0], i) for i in single], single))
    for index, ids in enumerate(choices):
        if len(ids) > 1:
            entries = [(depth, token, index) for depth, token in enumerate(ids)]
            forms.append(AnswerForm(ids[:-1], len(ids), entries, [index]))
    return forms


def maskings(choices: Sequence[Ids], mask: int) -> list[AnswerForm]:
    """Masked answers: label words of the same number of tokens share a row of masks."""
    forms = []
    for count in sorted({len(ids) for ids in choices}):
        group = [index for index, ids in enumerate(choices) if len(ids) == count]
        entries = [
            (depth, token, index) for index in group for depth, token in enumerate(choices[index])
        ]
        forms.append(AnswerForm((mask,) * count, count, entries, group))
    return forms


class PlainEngine:
    """Scores by whole sequences.

    Args:
        model: A causal, masked or sequence-to-sequence language model.
        kind: Which of them: ``"causal"``, ``"masked"`` or ``"seq2seq"``.
        limit: What one forward pass may take.
        mask_token: Id of the mask (masked models).
    """

    def __init__(
        self, model: Any, kind: str, limit: MemoryLimit, mask_token: int | None = None
    ) -> None:
        self._model = model
        self._kind = kind
        self._limit = limit
        self._mask_token = mask_token
        self._trunk = model.get_decoder() if kind == "seq2seq" else model.base_model
        self._embeddings = model.get_input_embeddings()
        self._encoded: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.computed_tokens = 0

    @property
    def embeddings(self) -> Any:
        """Token ids to embeddings."""
        return self._embeddings

    def score(
        self, prompts: Sequence[EncodedPrompt], choices: Sequence[Ids], soft: SoftTokens, top_k: int
    ) -> Readings:
        """Readings of shape (λ, n, …)."""
        readings = Readings.empty(len(soft.vectors), len(prompts), len(choices), top_k)
        if self._mask_token is not None:
            forms = maskings(choices, self._mask_token)
        else:
            forms = continuations(choices)
        for number, form in enumerate(forms):
            self._score_form(prompts, form, soft, readings, top_k if number == 0 else 0)
        return readings

    def _score_form(
        self,
        prompts: Sequence[EncodedPrompt],
        form: AnswerForm,
        soft: SoftTokens,
        readings: Readings,
        top_k: int,
    ) -> None:
        before = [soft.codes(prompt.before) for prompt in prompts]
        filling = np.array(form.filling, dtype=np.int64)
        rows = [
            np.concatenate([start, filling, soft.codes(prompt.after)])
            for start, prompt in zip(before, prompts, strict=True)
        ]
        encoder = [soft.codes(prompt.encoder) for prompt in prompts]
        first = np.array([len(start) - (self._kind != "masked") for start in before])
        reads = first[:, None] + np.arange(form.reads)
        width = len(readings.label_logprobs[0, 0])
        targets = Targets.build(form.entries, width, soft.vectors.device)
        lengths = [(len(a), len(b)) for a, b in zip(encoder, rows, strict=True)]
        longest = max(map(sum, lengths))

        def fit() -> int:
            return self._limit.rows(longest, longest, form.reads)

        for pack in packs_by_length(lengths, fit()):

            def work(chunk: slice, pack: list[int] = pack) -> None:
                logits = self._forward(
                    [encoder[i] for i in pack],
                    [rows[i] for i in pack],
                    reads[pack],
                    soft.vectors[chunk],
                )
                scores, ids, logprobs = read_logits(logits, targets, top_k)
                shape = (-1, len(pack))
                grid = scores.reshape(*shape, width)
                for choice in form.choices:
                    readings.label_logprobs[chunk, pack, choice] = grid[:, :, choice]
                if top_k:
                    readings.top_ids[chunk, pack] = ids.reshape(*shape, top_k)
                    readings.top_logprobs[chunk, pack] = logprobs.reshape(*shape, top_k)

            def candidates(pack: list[int] = pack) -> int:
                return max(1, fit() // len(pack))

            in_chunks(len(soft.vectors), candidates, self._limit, work)

    def _forward(
        self, encoder: list[IntArray], rows: list[IntArray], reads: IntArray, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Logits (λ·rows, p, vocabulary) at ``reads`` (rows, p)."""
        candidates, device = len(vectors), vectors.device
        codes, lengths = padded(rows, "right")
        batch = embed(codes, vectors, self._embeddings).flatten(0, 1)
        mask = self._mask(codes, lengths, candidates, device)
        positions = torch.from_numpy(reads).to(device).repeat(candidates, 1)
        self.computed_tokens += candidates * int(lengths.sum())
        if self._kind == "seq2seq":
            states, states_mask = self._encode(encoder, vectors)
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
        with only_positions(self._trunk, positions):
            logits: torch.Tensor = self._model(**inputs).logits
        return logits

    def _encode(
        self, rows: list[IntArray], vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder output (λ·rows, m, hidden) and its mask; reused where no slot is in it."""
        codes, lengths = padded(rows, "right")
        mask = self._mask(codes, lengths, len(vectors), vectors.device)
        if any((row < 0).any() for row in rows):
            batch = embed(codes, vectors, self._embeddings).flatten(0, 1)
            self.computed_tokens += len(vectors) * int(lengths.sum())
            return self._model.get_encoder()(
                inputs_embeds=batch, attention_mask=mask
            ).last_hidden_state, mask
        key = b"|".join(row.tobytes() for row in rows)
        if key not in self._encoded:
            batch = embed(codes, vectors[:1], self._embeddings).flatten(0, 1)
            self._encoded[key] = self._model.get_encoder()(
                inputs_embeds=batch, attention_mask=mask[: len(rows)]
            ).last_hidden_state
            self.computed_tokens += int(lengths.sum())
            self._drop_oldest()
        self._encoded.move_to_end(key)
        return self._encoded[key].repeat(len(vectors), 1, 1), mask

    def _drop_oldest(self) -> None:
        def held() -> int:
            return sum(value.numel() * value.element_size() for value in self._encoded.values())

        while len(self._encoded) > 1 and held() > self._limit.bytes:
            self._encoded.popitem(last=False)

    @staticmethod
    def _mask(
        codes: IntArray, lengths: IntArray, candidates: int, device: torch.device
    ) -> torch.Tensor:
        mask = np.arange(codes.shape[1]) < lengths[:, None]
        return torch.from_numpy(mask.astype(np.int64)).to(device).repeat(candidates, 1)
