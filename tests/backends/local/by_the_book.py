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

    def _sides(self, prompt: Prompt, soft: dict[str, np.ndarray]) -> list[torch.Tensor]:
        """Embeddings of encoder, before the answer and behind it; words joined between slots."""
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
        return [self._embed(side) for side in sides]

    def _embed(self, codes: Sequence[Any]) -> torch.Tensor:
        import torch

        embeddings = self._model.get_input_embeddings()
        rows = [
            embeddings(torch.tensor([code]))[0] if isinstance(code, int) else torch.tensor(code)
            for code in codes
        ]
        return torch.stack(rows) if rows else torch.zeros(0, embeddings.weight.shape[1])

    def _logprobs(self, **inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs).logits[0]
        return logits.float().log_softmax(dim=-1)

    def _causal(self, sides: list[torch.Tensor], answer: list[int]) -> torch.Tensor:
        import torch

        # Llama-like tokenizers open with <s>; none of these close a prompt.
        opening = self._embed(self._tokenizer("")["input_ids"])
        sequence = torch.cat([opening, sides[1], self._embed(answer)])
        logprobs = self._logprobs(inputs_embeds=sequence[None])
        return logprobs[len(opening) + len(sides[1]) - 1 :]

    def _masked(self, sides: list[torch.Tensor], count: int) -> torch.Tensor:
        import torch

        masks = self._embed([self._tokenizer.mask_token_id] * count)
        opening, closing = self._embed(self._start), self._embed(self._end)
        sequence = torch.cat([opening, sides[1], masks, sides[2], closing])
        logprobs = self._logprobs(inputs_embeds=sequence[None])
        return logprobs[len(opening) + len(sides[1]) :]

    def _seq2seq(self, sides: list[torch.Tensor], answer: list[int]) -> torch.Tensor:
        import torch

        encoder = torch.cat([self._embed(self._start), sides[0], self._embed(self._end)])
        start = self._embed([self._model.config.decoder_start_token_id])
        decoder = torch.cat([start, sides[1], self._embed(answer[:-1])])
        logprobs = self._logprobs(inputs_embeds=encoder[None], decoder_inputs_embeds=decoder[None])
        return logprobs[len(sides[1]) :]


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
