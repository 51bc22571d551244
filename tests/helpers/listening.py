"""The toy model with a memory."""

from __future__ import annotations

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.types import ScoreRequest, Scores, Sink


class Listening(FakeBackend):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ScoreRequest] = []

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.requests.append(request)
        return super().score(request, sink)
