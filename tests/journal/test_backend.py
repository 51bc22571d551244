from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journaling import CHOICES, PROMPTS, Recording, assert_same, bits, candidates, request_for

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError
from blackbox_delta.journal import Journal, JournaledBackend, check_reply
from blackbox_delta.testing import check_backend
from blackbox_delta.types import ScoreRequest, Scores, Sink, Usage


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as opened:
        yield opened


# ------------------------------------------------------------------------------------- paying once


def test_a_journaled_backend_keeps_the_contract(journal: Journal) -> None:
    check_backend(JournaledBackend(FakeBackend(), journal))


def test_what_is_all_new_goes_through_unchanged(journal: Journal) -> None:
    inner = Recording()
    backend = JournaledBackend(inner, journal)
    request = request_for([1, 2], [0, 1, 2])
    scores = backend.score(request)
    assert inner.asked[0] is request
    assert (backend.paid, backend.replayed, len(journal)) == (6, 0, 6)
    assert bits(scores)[:3] == bits(FakeBackend().score(request))[:3]
    assert scores.usage.queries == request.queries
    assert scores.usage.tokens == 2 * inner.count_tokens(request).sum()


def test_a_replay_asks_nothing_and_reports_the_same_to_the_last_bit(path: Path) -> None:
    request = request_for([1, 2, 3], [0, 1, 2, 3])
    with Journal.open(path, create=True) as journal:
        first = JournaledBackend(FakeBackend(delay=0.01), journal).score(request)
    inner = Recording()
    with Journal.open(path, create=False) as journal:
        backend = JournaledBackend(inner, journal)
        again = backend.score(request)
    assert inner.asked == []
    assert (backend.paid, backend.replayed) == (0, 12)
    assert bits(again) == bits(first)
    assert again.usage.seconds == pytest.approx(first.usage.seconds)
    assert again.usage.seconds > 0.01


def test_a_partly_known_request_asks_only_for_what_is_missing(journal: Journal) -> None:
    inner = Recording()
    backend = JournaledBackend(inner, journal)
    backend.score(request_for([1, 2], [0, 1]))
    scores = backend.score(request_for([3, 1, 4, 2], [0, 1, 2]))
    assert [(part.candidates, len(part.prompts)) for part in inner.asked[1:]] == [(2, 3), (2, 1)]
    assert_same(scores, FakeBackend().score(request_for([3, 1, 4, 2], [0, 1, 2])))
    assert (backend.paid, backend.replayed) == (4 + 8, 4)


def test_a_pair_that_comes_twice_is_asked_once(journal: Journal) -> None:
    inner = Recording()
    backend = JournaledBackend(inner, journal)
    request = request_for([5, 6, 5], [0, 1, 0])
    scores = backend.score(request)
    assert (inner.queries, backend.paid, backend.replayed) == (4, 4, 5)
    assert scores.usage.queries == 9
    assert_same(scores, FakeBackend().score(request))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 4), min_size=1, max_size=4),
            st.lists(st.integers(0, 5), min_size=1, max_size=5),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_pair_is_ever_paid_twice(requests: list[tuple[list[int], list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        inner = Recording()
        with Journal.open(path, create=True) as journal:
            backend = JournaledBackend(inner, journal)
            first = [backend.score(request_for(*which)) for which in requests]
        pairs = {(seed, prompt) for s, p in requests for seed in s for prompt in p}
        assert inner.queries == backend.paid == len(pairs)
        for which, scores in zip(requests, first, strict=True):
            assert_same(scores, FakeBackend().score(request_for(*which)))
        with Journal.open(path, create=False) as journal:
            replay = JournaledBackend(Recording(fail_at=range(1, 9)), journal)  # type: ignore[arg-type]
            again = [replay.score(request_for(*which)) for which in requests]
    for one, other in zip(first, again, strict=True):
        assert bits(one)[:3] == bits(other)[:3]
        assert one.usage.tokens == other.usage.tokens


def test_everything_that_a_reply_depends_on_is_part_of_the_key(journal: Journal) -> None:
    base = request_for([1], [0])
    variants = [
        base,
        replace(base, repeat=1),
        replace(base, top_k=4),
        replace(base, choices=CHOICES[:2]),
        replace(base, choices=CHOICES[::-1]),
        replace(base, prompts=PROMPTS[1:2]),
        replace(base, delta=candidates(2)),
        replace(base, delta=None),
    ]
    backend = JournaledBackend(FakeBackend(), journal)
    for count, variant in enumerate(variants, 1):
        backend.score(variant)
        assert backend.paid == count
    other = JournaledBackend(FakeBackend("fake:other"), journal)
    other.score(base)
    assert other.paid == 1


def test_a_request_without_prompts_costs_nothing(journal: Journal) -> None:
    backend = JournaledBackend(Recording(), journal)
    scores = backend.score(request_for([1, 2], []))
    assert scores.label_logprobs.shape == (2, 0, 3)
    assert scores.usage == Usage()
    assert backend.paid == 0


# ---------------------------------------------------------------------------------- broken replies


def test_a_failure_leaves_what_was_answered_before(journal: Journal) -> None:
    inner = FakeBackend(fail_at=[2])
    backend = JournaledBackend(inner, journal)
    backend.score(request_for([1], [0, 1]))
    with pytest.raises(BackendError, match="told to fail"):
        backend.score(request_for([1, 2], [0, 1]))
    assert len(journal) == 2
    backend.score(request_for([1, 2], [0, 1]))
    assert (backend.paid, len(journal)) == (4, 4)


def test_a_reply_that_is_not_a_number_is_never_written(journal: Journal) -> None:
    backend = JournaledBackend(FakeBackend(nan_at=[1]), journal)
    with pytest.raises(BackendError, match="label_logprobs hold a number that is not finite"):
        backend.score(request_for([1], [0]))
    assert len(journal) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_top_tokens_are_checked_as_well(journal: Journal, value: float) -> None:
    class Broken(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            scores = super().score(request, sink)
            return replace(scores, top_logprobs=np.full_like(scores.top_logprobs, value))

    with pytest.raises(BackendError, match="top_logprobs"):
        JournaledBackend(Broken(), journal).score(request_for([1], [0]))


def test_a_truncated_reply_is_never_written(journal: Journal) -> None:
    class Truncated(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            scores = super().score(request, sink)
            return replace(scores, label_logprobs=scores.label_logprobs[:, :-1])

    with pytest.raises(BackendError, match=r"shape \(1, 1, 3\), not \(1, 2, 3\)"):
        JournaledBackend(Truncated(), journal).score(request_for([1], [0, 1]))
    assert len(journal) == 0


@pytest.mark.parametrize("identifier", [-1, 2**31])
def test_what_is_no_token_id_is_refused(identifier: int) -> None:
    request = ScoreRequest([request_for([1], [0]).prompts[0]], ("a", "b"), None, 1)
    labels, logprobs = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 1), np.float32)
    ids = np.full((1, 1, 1), identifier, dtype=np.int64)
    with pytest.raises(BackendError, match="no token id"):
        check_reply(request, Scores(labels, ids, logprobs))


def test_nothing_is_written_into_a_journal_that_is_lent(journal: Journal, tmp_path: Path) -> None:
    JournaledBackend(FakeBackend(), journal).score(request_for([1], [0]))
    with Journal.open(tmp_path / "own.sqlite", create=True) as own:
        backend = JournaledBackend(FakeBackend(), own, journal, lent=True)
        backend.score(request_for([1, 2], [0]))
        assert (backend.cached, backend.paid, len(own)) == (1, 1, 2)
    assert len(journal) == 1
