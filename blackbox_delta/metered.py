"""A backend that counts what it was asked."""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.errors import take_lost, tell_lost
from blackbox_delta.forwarding import ForwardingBackend
from blackbox_delta.types import Backend, Reply, ScoreRequest, Scores, Sink, Usage


class Metered(ForwardingBackend):
    """Passes everything on to another backend and adds up the usage.

    Args:
        inner: Who answers.

    Attributes:
        usage: What all requests together cost so far. Of one that failed or was interrupted, the
            replies that came before that and the queries that were lost.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.usage = Usage()

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """The inner backend's scores; raises what it raises."""
        came = Usage()

        def count(replies: Sequence[Reply]) -> None:
            nonlocal came
            for reply in replies:
                came = came + reply.usage
            if sink is not None:
                sink(replies)

        try:
            scores = self._inner.score(request, count)
        except BaseException as error:
            lost = take_lost(error)
            tell_lost(error, lost)  # to whoever books them
            self.usage = self.usage + came + Usage(lost=lost)
            raise
        self.usage = self.usage + scores.usage
        return scores
