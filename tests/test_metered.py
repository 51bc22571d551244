"""A backend that counts: of requests that are answered, that fail, and that are interrupted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError, take_lost, tell_lost
from blackbox_delta.metered import Metered
from blackbox_delta.testing import check_backend
from blackbox_delta.types import (
    AnswerSlot,
    Prompt,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Words,
)

REQUEST = ScoreRequest([Prompt((Words("a film"), AnswerSlot()))] * 2, [" good", " bad"])


class Breaking(FakeBackend):
    """Gives the first prompt's reply, loses three queries, and fails."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self._error = error

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        whole = super().score(request)
        assert sink is not None
        told = (whole.label_logprobs[0, 0], whole.top_ids[0, 0], whole.top_logprobs[0, 0])
        sink([Reply(0, 0, *told, Usage(1, tokens=7))])
        error = self._error()
        tell_lost(error, 3)
        raise error


def test_it_is_the_backend_behind_it() -> None:
    inner = FakeBackend()
    meter = Metered(inner)
    check_backend(meter)
    assert meter.usage.queries == inner.queries > 0


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt])
def test_what_a_failed_request_cost_is_counted_and_still_told(error: type[BaseException]) -> None:
    meter, came = Metered(Breaking(error)), list[Reply]()

    def take(replies: Sequence[Reply]) -> None:
        came.extend(replies)

    with pytest.raises(error) as caught:
        meter.score(REQUEST, take)
    assert meter.usage == Usage(1, tokens=7, lost=3)
    assert [reply.prompt for reply in came] == [0]
    assert take_lost(caught.value) == 3
