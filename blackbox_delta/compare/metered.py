"""A backend that counts what it was asked."""

from __future__ import annotations

from blackbox_delta.forwarding import ForwardingBackend
from blackbox_delta.types import Backend, ScoreRequest, Scores, Sink, Usage


class Metered(ForwardingBackend):
    """Passes everything on to another backend and adds up the usage.

    Args:
        inner: Who answers.

    Attributes:
        usage: What all requests together cost so far.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.usage = Usage()

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """The inner backend's scores; raises what it raises."""
        scores = self._inner.score(request, sink)
        self.usage = self.usage + scores.usage
        return scores
