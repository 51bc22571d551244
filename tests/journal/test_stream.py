"""Replies that come one by one, and runs that end among them."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journaling import bits
from streaming import FAST, FILMS, GOOD, REQUEST, Streaming, cost, kill, start

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.types import Prompt, Reply, ScoreRequest, Scores, Sink, Usage


def test_a_reply_is_written_as_soon_as_it_is_there(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        written: list[int] = []
        backend = JournaledBackend(
            Streaming(on_reply=lambda: written.append(len(journal))), journal
        )
        first = backend.score(REQUEST)
        assert written == list(range(1, 9))
        assert (backend.paid, backend.replayed) == (8, 0)
    with Journal.open(path, create=False) as journal:
        again = JournaledBackend(FakeBackend(fail_at=[1]), journal).score(REQUEST)
    assert bits(again) == bits(first)
    assert first.usage == sum(map(cost, FILMS), Usage())
    assert bits(first)[:3] == bits(Streaming().score(REQUEST))[:3]


def test_what_came_before_a_failure_is_kept_and_not_asked_again(path: Path) -> None:
    def fail() -> None:
        if len(broken.answered) == 3:
            raise BackendError("the line went dead")

    broken, whole = Streaming(on_reply=fail), Streaming()
    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(broken, journal)
        with pytest.raises(BackendError, match="went dead"):
            backend.score(REQUEST)
        assert (backend.paid, backend.replayed, len(journal)) == (3, 0, 3)
        backend = JournaledBackend(whole, journal)
        scores = backend.score(REQUEST)
        assert (backend.paid, backend.replayed) == (5, 3)
    assert whole.answered == FILMS[3:]
    assert scores.usage == sum(map(cost, FILMS), Usage())


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([GOOD, GOOD], "candidate 0 and prompt 1 came twice"),
        ([replace(GOOD, prompt=8)], "candidate 0 and prompt 8, but 1 candidates and 8 prompts"),
        ([replace(GOOD, candidate=-1)], "candidate -1"),
        ([replace(GOOD, label_logprobs=np.zeros(3, np.float32))], r"shape \(3,\), not \(2,\)"),
        ([replace(GOOD, top_logprobs=np.full(3, np.nan))], "top_logprobs .* not finite"),
        ([replace(GOOD, top_ids=np.full(3, -1))], "no token id"),
        ([replace(GOOD, usage=Usage(1, -5))], "tokens are said to be -5"),
        ([replace(GOOD, usage=Usage(1, 2**63))], "tokens are said to be"),
        ([replace(GOOD, usage=Usage(seconds=float("nan")))], "seconds are said to be nan"),
    ],
)
def test_a_broken_reply_is_never_written(
    replies: Sequence[Reply], message: str, path: Path
) -> None:
    class Broken(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            assert sink is not None
            sink(replies)
            return super().score(request)

    with Journal.open(path, create=True) as journal:
        with pytest.raises(BackendError, match=message):
            JournaledBackend(Broken(), journal).score(REQUEST)
        assert len(journal) == 0


def test_a_reply_that_comes_twice_in_two_steps_is_refused(path: Path) -> None:
    class Twice(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            assert sink is not None
            sink([GOOD])
            sink([GOOD])
            return super().score(request)

    with Journal.open(path, create=True) as journal:
        with pytest.raises(BackendError, match="came twice"):
            JournaledBackend(Twice(), journal).score(REQUEST)
        assert len(journal) == 1


PAIRS = st.sets(st.sampled_from(FILMS))


@settings(max_examples=30, deadline=None)
@given(known=PAIRS, cached=PAIRS, alone=PAIRS, order=st.permutations(FILMS))
def test_wherever_a_reply_comes_from_the_result_is_the_same(
    known: set[Prompt], cached: set[Prompt], alone: set[Prompt], order: list[Prompt]
) -> None:
    request = replace(REQUEST, prompts=order)
    with tempfile.TemporaryDirectory(dir=FAST) as folder, ExitStack() as stack:
        places = {name: Path(folder) / name for name in ("run", "cache", "other")}
        open_ = {
            name: stack.enter_context(Journal.open(p, create=True, shared=name == "cache"))
            for name, p in places.items()
        }
        earlier = replace(REQUEST, prompts=sorted(known, key=FILMS.index), purpose="earlier")
        JournaledBackend(Streaming(), open_["run"]).score(earlier)
        others = replace(REQUEST, prompts=sorted(cached, key=FILMS.index), purpose="others")
        JournaledBackend(Streaming(), open_["other"], open_["cache"]).score(others)
        inner = Streaming(alone=alone)
        backend = JournaledBackend(inner, open_["run"], open_["cache"])
        first, again = backend.score(request), backend.score(request)
        new = len(set(FILMS) - known - cached)
        assert (backend.paid, backend.cached) == (new, len(cached - known))
        assert backend.replayed == 2 * 8 - new - len(cached - known)
        assert len(inner.answered) == new
        assert (len(open_["run"]), len(open_["cache"])) == (8, 8 - len(known - cached))
        expected = sum(map(cost, FILMS), Usage())
        assert replace(first.usage, seconds=0) == replace(expected, seconds=0)
        assert first.usage.seconds == pytest.approx(expected.seconds)
        assert bits(first) == bits(again)
        assert bits(first)[:3] == bits(Streaming().score(request))[:3]


# -------------------------------------------------------------------------------------- full disks

FILLING = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from blackbox_delta.journal import Journal, JournaledBackend
from streaming import *
path = Path(sys.argv[2])
done = 0
with Journal.open(path, create=True) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
    inner = Streaming()
    backend = JournaledBackend(inner, journal)
    try:
        for repeat in range(10_000):
            backend.score(replace(REQUEST, repeat=repeat))
    except Exception as error:
        print(type(error).__name__, error)
print(backend.paid, len(inner.answered))
"""


@pytest.mark.parametrize("room", [60_000, 80_000])
def test_a_full_disk_in_mid_stream_is_one_error_and_loses_nothing(room: int, path: Path) -> None:
    """The largest size that a file may have, which writes run into as into a full disk."""
    command = [sys.executable, "-c", FILLING, str(Path(__file__).parent), str(path), str(room)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    error, counts = shown.stdout.splitlines()
    assert error.startswith("JournalError")
    assert "nothing that it held was lost" in error
    paid, answered = map(int, counts.split())
    # The reply that did not fit is the only one that was answered in vain.
    assert paid > 5
    assert answered - paid in {0, 1}
    with Journal.open(path, create=False) as journal:
        assert len(journal) == paid
        inner = Streaming()
        backend = JournaledBackend(inner, journal)
        for repeat in range(paid // 8 + 1):
            scores = backend.score(replace(REQUEST, repeat=repeat))
            assert scores.usage == sum(map(cost, FILMS), Usage())
        assert len(inner.answered) == 8 - paid % 8


# ----------------------------------------------------------------------------------------- SIGKILL


def test_sigkill_in_mid_stream_repeats_no_reply_and_ends_alike(tmp_path: Path) -> None:
    rng = random.Random(0)
    places = [tmp_path / f"{number}.sqlite" for number in range(4)]
    counts = []
    expected = bits(Streaming().score(REQUEST))[:3]
    for path in places:
        with start(path) as process:
            said = kill(process, rng.uniform(0, 0.25))
        with Journal.open(path, create=False) as journal:
            counts.append(len(journal))
            # One more may have been written than there was time to speak of.
            assert len(journal) - said in {0, 1}
            inner = Streaming()
            backend = JournaledBackend(inner, journal)
            for repeat in range(12):
                scores = backend.score(replace(REQUEST, repeat=repeat))
                assert bits(scores)[:3] == expected
                assert scores.usage == sum(map(cost, FILMS), Usage())
            assert len(inner.answered) == backend.paid == 96 - counts[-1]
    assert any(count % 8 for count in counts), "no kill fell into a request"
