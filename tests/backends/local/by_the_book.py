"""Scores by one plain forward pass per candidate, example and choice: what others must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox_delta.deltas import MODULE_DELTAS
from blackbox_delta.deltas.targets import select
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    Segment,
    SoftSlot,
    Words,
)

if TYPE_CHECKING:
    import torch

TEXTS = ["fine", "the plot is long and the acting was so dull", "a film, I would go again"]
#: One token, one token, and three of several tokens that begin alike.
CHOICES = [" great", " good", " terrible bad", " terrible dull", " terrible dull film"]

#: Modules for each kind of delta.
TARGETS = dict.fromkeys(MODULE_DELTAS, "all-linear") | {
    "bitfit": "all",
    "last-layer": "last-layer",
    "selective": "random:3",
}

Template = Callable[[str], Sequence[Segment]]


class Reference:
    """Scores by the book: full sequences, full logits, one choice at a time."""

    def __init__(self, kind: str, model: Any, tokenizer: Any) -> None:
        self._kind, self._model, self._tokenizer = kind, model, tokenizer
        empty = tokenizer("")["input_ids"]
        self._start = [token for token in empty if token != empty[-1] or len(empty) == 1]
        self._end = empty[len(self._start) :]
        if kind == "seq2seq" and len(empty) == 1:
            self._start, self._end = [], empty

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def score(self, prompt: Prompt, choice: str, soft: dict[str, np.ndarray]) -> float:
        answer = self.ids(choice)
        sides = self._sides(prompt, soft)
        if self._kind == "masked":
            logprobs = self._masked(sides, len(answer))
        elif self._kind == "causal":
            logprobs = self._causal(sides, answer)
        else:
            logprobs = self._seq2seq(sides, answer)
        return sum(float(logprobs[place, token]) for place, token in enumerate(answer))

    def distribution(self, prompt: Prompt, soft: dict[str, np.ndarray]) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary where a single token would stand."""
        sides = self._sides(prompt, soft)
        if self._kind == "masked":
            return self._masked(sides, 1)[0]
        any_token = [5]
        return (self._causal if self._kind == "causal" else self._seq2seq)(sides, any_token)[0]

    def _sides(self, prompt: Prompt, soft: dict[str, np.ndarray]) -> list[list[Any]]:
        """Tokens and vectors of encoder, before the answer and behind it; words joined."""
        sides: list[list[Any]] = [[], [], []]
        side, words = (0 if self._kind == "seq2seq" else 1), ""
        for segment in (*prompt.segments, None):
            if isinstance(segment, Words):
                words += segment.text
                continue
            sides[side] += self.ids(words)
            words = ""
            if isinstance(segment, SoftSlot) and segment.name in soft:
                sides[side] += list(soft[segment.name])
            elif isinstance(segment, DecoderStart):
                side = 1
            elif isinstance(segment, AnswerSlot):
                side = 2
        return sides

    def _given(self, codes: Sequence[Any], side: str = "") -> dict[str, torch.Tensor]:
        """Token ids, as the model's makers give them; embeddings only for the sake of a vector."""
        import torch

        if all(isinstance(code, int) for code in codes):
            return {f"{side}input_ids": torch.tensor([codes])}
        part = self._model.get_decoder() if side else self._model
        embeddings = part.get_input_embeddings()
        rows = [
            embeddings(torch.tensor([code]))[0] if isinstance(code, int) else torch.tensor(code)
            for code in codes
        ]
        return {f"{side}inputs_embeds": torch.stack(rows)[None]}

    def _logprobs(self, **inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs).logits[0]
        return logits.float().log_softmax(dim=-1)

    def _causal(self, sides: list[list[Any]], answer: list[int]) -> torch.Tensor:
        # Llama-like tokenizers open with <s>; none of these close a prompt.
        before = [*self._tokenizer("")["input_ids"], *sides[1]]
        return self._logprobs(**self._given([*before, *answer]))[len(before) - 1 :]

    def _masked(self, sides: list[list[Any]], count: int) -> torch.Tensor:
        before = [*self._start, *sides[1]]
        masks = [self._tokenizer.mask_token_id] * count
        return self._logprobs(**self._given([*before, *masks, *sides[2], *self._end]))[
            len(before) :
        ]

    def _seq2seq(self, sides: list[list[Any]], answer: list[int]) -> torch.Tensor:
        encoder = [*self._start, *sides[0], *self._end]
        before = [self._model.config.decoder_start_token_id, *sides[1]]
        own = self._given([*before, *answer[:-1]], "decoder_")
        return self._logprobs(**self._given(encoder), **own)[len(before) - 1 :]


def request_for(
    template: Template, delta: DeltaBatch | None, choices: Sequence[str] = CHOICES, top_k: int = 0
) -> ScoreRequest:
    return ScoreRequest([Prompt(tuple(template(text))) for text in TEXTS], choices, delta, top_k)


def batch(kind: str, backend: Any, candidates: int, seed: int = 0) -> DeltaBatch:
    """Candidates that move the model by much, and answers by less than what float32 can tell."""
    geometry = backend.geometry
    delta = MODULE_DELTAS[kind].build(select(geometry, TARGETS[kind]), geometry)
    rng = np.random.default_rng(seed)
    return delta.unpack(rng.normal(0, 1.0, (candidates, delta.size)).astype(np.float32))
