"""What a request may send, and what of it was lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from streaming import FILMS, REQUEST, Streaming, cost

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import RemoteError, SpentError, take_lost
from blackbox_delta.journal import Journal, JournaledBackend, summarise
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Words,
)


def test_purpose_and_allowance_are_passed_on_but_determine_no_reply(path: Path) -> None:
    inner = Streaming()
    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(inner, journal)
        backend.score(replace(REQUEST, prompts=FILMS[:3], max_sent=30))
        backend.score(replace(REQUEST, purpose="test", max_sent=30))
        backend.score(replace(REQUEST, purpose="other", max_sent=8))
    # Three were answered before, after three losses: none, one and two.
    assert [(len(asked.prompts), asked.max_sent) for asked in inner.requests] == [(3, 30), (5, 24)]
    assert [asked.purpose for asked in inner.requests] == ["search", "test"]


def test_a_budget_that_ran_out_runs_out_again_and_nothing_is_sent(path: Path) -> None:
    # One reply, another one after a loss, one after two losses; then only losses.
    request = replace(REQUEST, max_sent=11)
    inner = Streaming(losing=range(6, 99))
    raised = []
    for backend in (inner, FakeBackend(fail_at=[1])):
        with Journal.open(path, create=not path.exists()) as journal:
            journaled = JournaledBackend(backend, journal)
            with pytest.raises(SpentError) as caught:
                journaled.score(request)
            raised.append((caught.value.sent, journaled.paid))
    assert raised == [(11, 3), (11, 0)]
    assert inner.sent == 11
    # Without a limit the rest can still be had.
    with Journal.open(path, create=False) as journal:
        backend = Streaming()
        assert JournaledBackend(backend, journal).score(REQUEST).usage.queries == 8
    assert backend.answered == FILMS[3:]


@pytest.mark.parametrize("max_sent", [None, 30])
@pytest.mark.parametrize("error", [RemoteError("gone"), KeyboardInterrupt(), RuntimeError("oops")])
def test_what_was_lost_is_kept_however_a_request_ends(
    path: Path, max_sent: int | None, error: BaseException
) -> None:
    """One session loses two queries over the fourth reply, one loses one, the third ends well."""
    request = replace(REQUEST, max_sent=max_sent)
    kept = []
    for inner in (
        Streaming(losing=[6], breaking={7: error}),
        Streaming(breaking={0: error}),
        Streaming(),
        FakeBackend(fail_at=[1]),
    ):
        with Journal.open(path, create=not path.exists()) as journal:
            try:
                kept.append(JournaledBackend(inner, journal).score(request).usage)
            except type(error):
                assert take_lost(error) == 0, "taken once"
    # Each pair's own losses, and three on which no reply followed.
    known = sum(map(cost, FILMS), Usage())
    tokens = FakeBackend().count_tokens(REQUEST)
    each = FakeBackend().capabilities.output_tokens
    lost = round(2 * tokens.mean()) + round(tokens[3:].mean())
    assert replace(kept[0], seconds=0.0) == replace(
        known,
        lost=known.lost + 3,
        tokens=known.tokens + lost,
        output_tokens=known.output_tokens + 3 * each,
        seconds=0.0,
    )
    assert kept[0] == kept[1], "a replay costs the same"
    [spending] = summarise(path).purposes
    assert (spending.purpose, spending.usage) == ("search", replace(kept[0], seconds=ANY))
    with Journal.open(path, create=False) as journal:
        other = JournaledBackend(FakeBackend(), journal).score(replace(request, max_sent=99))
    assert other.usage.lost == known.lost, "it was not lost for another request"


def test_losses_before_an_error_count_against_the_allowance(path: Path) -> None:
    request = replace(REQUEST, max_sent=12)
    left = []
    for _ in range(4):
        inner = Streaming(losing=range(99), breaking={1: RemoteError("gone")})
        with Journal.open(path, create=not path.exists()) as journal:
            with pytest.raises((RemoteError, SpentError)) as caught:
                JournaledBackend(inner, journal).score(request)
            left.append([request.max_sent for request in inner.requests])
    assert left == [[12], [10], [8], []]
    assert isinstance(caught.value, SpentError)
    assert caught.value.sent == 6


def test_a_journal_before_a_journal_keeps_a_loss_once(path: Path, tmp_path: Path) -> None:
    """As in a comparison, whose cells share replies: the total is not counted twice."""
    for inner in (Streaming(losing=[0], breaking={1: RemoteError("gone")}), Streaming()):
        with (
            Journal.open(path, create=not path.exists()) as journal,
            Journal.open(
                tmp_path / "shared", create=not (tmp_path / "shared").exists(), shared=True
            ) as shared,
        ):
            backend = JournaledBackend(JournaledBackend(inner, shared), journal)
            with suppress(RemoteError):
                scores = backend.score(REQUEST)
    assert scores.usage.lost == sum(map(cost, FILMS), Usage()).lost + 2


def test_an_allowance_covers_what_was_answered_before(path: Path) -> None:
    inner = Streaming(losing=range(6, 99))
    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(inner, journal)
        backend.score(replace(REQUEST, prompts=[FILMS[5], FILMS[1]]))
        assert inner.sent == 4  # each after a loss
        with pytest.raises(SpentError) as caught:
            backend.score(replace(REQUEST, max_sent=20))
        assert (caught.value.sent, inner.sent) == (20, 20)
        # Five are missing still; the losses within another allowance do not count.
        with pytest.raises(SpentError, match="5 replies are missing, and only 4 more") as caught:
            backend.score(replace(REQUEST, max_sent=9))
        assert (caught.value.sent, inner.sent) == (5, 20)


def test_parts_of_a_request_share_its_allowance(path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((2, 1, 16)).astype(np.float32)
    delta = DeltaBatch("soft-prompt", {"soft": rows})
    request = replace(REQUEST, delta=delta, max_sent=20)
    asked = []

    class Losing(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            asked.append((request.queries, request.max_sent))
            scores = super().score(request)
            return replace(scores, usage=replace(scores.usage, lost=2))

    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(Losing(), journal)
        backend.score(replace(request, prompts=FILMS[:3], delta=delta.select([1])))
        assert backend.score(request).usage.lost == 6
        # All were answered, with 6 losses; 6 more cannot be had within 20.
        more = replace(request, prompts=[*FILMS, Prompt((Words("more"), AnswerSlot()))])
        with pytest.raises(SpentError):
            backend.score(replace(more, max_sent=23))
    assert asked == [(3, 20), (8, 15), (5, 5)]
