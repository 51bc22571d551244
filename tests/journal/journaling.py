"""Requests to a journal, and replies from it."""

from __future__ import annotations

import numpy as np

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    SoftSlot,
    Words,
)

TEXTS = ("a great film", "dull and far too long", "the plot is fine", "boring", "I love it", "no")
PROMPTS = [Prompt((Words(text), SoftSlot("soft"), AnswerSlot())) for text in TEXTS]
CHOICES = (" great", " terrible", " not bad")


def candidates(*seeds: int) -> DeltaBatch:
    rows = [np.random.default_rng(seed).standard_normal((2, 16)) for seed in seeds]
    return DeltaBatch("soft-prompt", {"soft": np.array(rows, dtype=np.float32)})


def request_for(seeds: list[int], prompts: list[int], top_k: int = 3) -> ScoreRequest:
    return ScoreRequest([PROMPTS[i] for i in prompts], CHOICES, candidates(*seeds), top_k)


class Recording(FakeBackend):
    """A fake that remembers what it was asked."""

    def __init__(self, **knobs: float) -> None:
        super().__init__(**knobs)  # type: ignore[arg-type]
        self.asked: list[ScoreRequest] = []

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.asked.append(request)
        return super().score(request, sink)


def assert_same(got: Scores, expected: Scores) -> None:
    for name in ("label_logprobs", "top_ids", "top_logprobs"):
        # The batch may be composed otherwise, so the last bit may differ.
        value, other = getattr(got, name), getattr(expected, name)
        assert value.shape == other.shape
        assert value.dtype == other.dtype
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-5)


def bits(scores: Scores) -> tuple[object, ...]:
    arrays = (scores.label_logprobs, scores.top_ids, scores.top_logprobs)
    return (*(array.tobytes() for array in arrays), scores.usage)
