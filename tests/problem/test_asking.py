from __future__ import annotations

from dataclasses import replace

import pytest
from posing import build

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError
from blackbox_delta.problem import ask
from blackbox_delta.types import ScoreRequest, Scores, Sink


class Broken(FakeBackend):
    """Answers one number too few."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = super().score(request, sink)
        return replace(reply, label_logprobs=reply.label_logprobs[:, :, 1:])


@pytest.mark.parametrize("backend", [FakeBackend(nan_at=[1]), Broken()])
def test_a_broken_reply_is_an_error_and_never_a_score(backend: FakeBackend) -> None:
    problem = build()
    with pytest.raises(BackendError, match="label_logprobs"):
        ask(backend, problem.request(problem.train.prompts, None, 0))
