"""Replies that come one by one, several runs that share a cache, kills and full disks."""

from __future__ import annotations

import functools
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta._journal_pairs import record_of
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import (
    BackendError,
    JournalError,
    RemoteError,
    SpentError,
    take_lost,
    tell_lost,
)
from blackbox_delta.journal import Journal, JournaledBackend, summarise
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    Prompt,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Words,
)

PROMPTS = [Prompt((Words(f"a film {'great ' * n}"), AnswerSlot())) for n in range(8)]
CHOICES = (" great", " terrible")
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where no disk is waited for
REQUEST = ScoreRequest(PROMPTS, CHOICES, top_k=3, purpose="search")


def cost(prompt: Prompt) -> Usage:
    """What a pair costs: each field something else, each pair something else."""
    n = PROMPTS.index(prompt)
    tokens = int(FakeBackend().count_tokens(ScoreRequest([prompt], CHOICES))[0])
    return Usage(1, tokens, tokens - n % 2, (n + 1) / 64, n % 3, n % 4, n % 2, int(n == 5))


class Streaming(FakeBackend):
    """Answers pair by pair, as a server does; untuned prompts only.

    Args:
        alone: Prompts whose replies do not go to the sink.
        losing: Queries that are lost, of those that this backend ever sends.
        breaking: Queries with which a request ends, lost too, and the error that ends it.
        delay: Seconds between one reply and the next.
        on_reply: Called after every one that was handed over.
    """

    def __init__(
        self,
        *,
        alone: Collection[Prompt] = (),
        losing: Collection[int] = (),
        breaking: Mapping[int, BaseException] = MappingProxyType({}),
        delay: float = 0.0,
        on_reply: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.alone, self.losing, self.pause, self.on_reply = alone, losing, delay, on_reply
        self.breaking = breaking
        self.answered: list[Prompt] = []
        self.requests: list[ScoreRequest] = []
        self.sent = 0

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.requests.append(request)
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(self._stream(request, sink))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]  # type: ignore[no-any-return]

    def _stream(self, request: ScoreRequest, sink: Sink | None) -> Scores:
        before, parts, total = self.sent, [], Usage()
        for index, prompt in enumerate(request.prompts):
            usage = replace(cost(prompt), lost=self._send(request, before, cost(prompt).lost))
            part = super().score(replace(request, prompts=[prompt]))
            time.sleep(self.pause)
            self.answered.append(prompt)
            parts.append(part)
            total += usage
            if sink is not None and prompt not in self.alone:
                arrays = (part.label_logprobs, part.top_ids, part.top_logprobs)
                sink([Reply(0, index, *(array[0, 0] for array in arrays), usage)])  # type: ignore[arg-type]
                self.on_reply()
        names = ("label_logprobs", "top_ids", "top_logprobs")
        arrays = tuple(np.concatenate([getattr(p, name) for p in parts], axis=1) for name in names)
        return Scores(*arrays, total)  # type: ignore[arg-type]

    def _send(self, request: ScoreRequest, before: int, least: int) -> int:
        """Sends until a reply comes; how many were lost."""
        lost = -1
        while lost < least or self.sent - 1 in self.losing:
            if request.max_sent is not None and self.sent - before >= request.max_sent:
                raise SpentError("nothing may be sent any more", self.sent - before)
            self.sent += 1
            lost += 1
            if (error := self.breaking.get(self.sent - 1)) is not None:
                tell_lost(error, lost + 1)
                raise error
        return lost


def bits(scores: Scores) -> tuple[object, ...]:
    arrays = (scores.label_logprobs, scores.top_ids, scores.top_logprobs)
    return (*(array.tobytes() for array in arrays), scores.usage)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


# --------------------------------------------------------------------- one reply at a time


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
    assert first.usage == sum(map(cost, PROMPTS), Usage())
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
    assert whole.answered == PROMPTS[3:]
    assert scores.usage == sum(map(cost, PROMPTS), Usage())


GOOD = Reply(
    0, 1, np.zeros(2, np.float32), np.arange(3), np.zeros(3, np.float32), Usage(1, 5, 5, 0.5)
)


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


PAIRS = st.sets(st.sampled_from(PROMPTS))


@settings(max_examples=30, deadline=None)
@given(known=PAIRS, cached=PAIRS, alone=PAIRS, order=st.permutations(PROMPTS))
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
        earlier = replace(REQUEST, prompts=sorted(known, key=PROMPTS.index), purpose="earlier")
        JournaledBackend(Streaming(), open_["run"]).score(earlier)
        others = replace(REQUEST, prompts=sorted(cached, key=PROMPTS.index), purpose="others")
        JournaledBackend(Streaming(), open_["other"], open_["cache"]).score(others)
        inner = Streaming(alone=alone)
        backend = JournaledBackend(inner, open_["run"], open_["cache"])
        first, again = backend.score(request), backend.score(request)
        new = len(set(PROMPTS) - known - cached)
        assert (backend.paid, backend.cached) == (new, len(cached - known))
        assert backend.replayed == 2 * 8 - new - len(cached - known)
        assert len(inner.answered) == new
        assert (len(open_["run"]), len(open_["cache"])) == (8, 8 - len(known - cached))
        expected = sum(map(cost, PROMPTS), Usage())
        assert replace(first.usage, seconds=0) == replace(expected, seconds=0)
        assert first.usage.seconds == pytest.approx(expected.seconds)
        assert bits(first) == bits(again)
        assert bits(first)[:3] == bits(Streaming().score(request))[:3]


# --------------------------------------------------------------------- purpose and allowance


def test_purpose_and_allowance_are_passed_on_but_determine_no_reply(path: Path) -> None:
    inner = Streaming()
    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(inner, journal)
        backend.score(replace(REQUEST, prompts=PROMPTS[:3], max_sent=30))
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
    assert backend.answered == PROMPTS[3:]


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
    known = sum(map(cost, PROMPTS), Usage())
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
    assert scores.usage.lost == sum(map(cost, PROMPTS), Usage()).lost + 2


def test_an_allowance_covers_what_was_answered_before(path: Path) -> None:
    inner = Streaming(losing=range(6, 99))
    with Journal.open(path, create=True) as journal:
        backend = JournaledBackend(inner, journal)
        backend.score(replace(REQUEST, prompts=[PROMPTS[5], PROMPTS[1]]))
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
        backend.score(replace(request, prompts=PROMPTS[:3], delta=delta.select([1])))
        assert backend.score(request).usage.lost == 6
        # All were answered, with 6 losses; 6 more cannot be had within 20.
        more = replace(request, prompts=[*PROMPTS, Prompt((Words("more"), AnswerSlot()))])
        with pytest.raises(SpentError):
            backend.score(replace(more, max_sent=23))
    assert asked == [(3, 20), (8, 15), (5, 5)]


# --------------------------------------------------------------------- full disks

FILLING = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from test_journal_stream import *
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
            assert scores.usage == sum(map(cost, PROMPTS), Usage())
        assert len(inner.answered) == 8 - paid % 8


# --------------------------------------------------------------------- SIGKILL

STREAMING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from test_journal_stream import *
cache = None if len(sys.argv) < 4 else Journal.open(Path(sys.argv[3]), create=True, shared=True)
with Journal.open(Path(sys.argv[2]), create=True) as journal:
    print("ready", flush=True)
    inner = Streaming(delay=0.002, on_reply=lambda: print(len(journal), flush=True))
    for repeat in range(12):
        JournaledBackend(inner, journal, cache).score(replace(REQUEST, repeat=repeat))
"""


def start(*places: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STREAMING, str(Path(__file__).parent), *map(str, places)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str], delay: float) -> int:
    """Kills a started process; returns how many replies it said were written."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return max([0, *map(int, process.stdout.read().split("\n")[:-1])])


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
                assert scores.usage == sum(map(cost, PROMPTS), Usage())
            assert len(inner.answered) == backend.paid == 96 - counts[-1]
    assert any(count % 8 for count in counts), "no kill fell into a request"


# --------------------------------------------------------------------- sharing


def test_what_one_run_paid_another_one_has_for_nothing(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "two")]
    inner = Streaming()
    with Journal.open(tmp_path / "cache", create=True, shared=True) as cache:
        scores = []
        for path in runs:
            with Journal.open(path, create=True) as journal:
                backend = JournaledBackend(inner, journal, cache)
                scores.append(backend.score(REQUEST))
                assert (backend.paid, backend.cached) == ((8, 0) if path is runs[0] else (0, 8))
    assert bits(scores[0]) == bits(scores[1])
    with Journal.open(runs[1], create=False) as journal:
        alone = JournaledBackend(FakeBackend(fail_at=[1]), journal)
        assert bits(alone.score(REQUEST)) == bits(scores[0])
        assert (alone.cached, alone.replayed) == (0, 8)


def test_several_processes_write_one_cache_and_one_is_killed(tmp_path: Path) -> None:
    """All start at once on a cache that is not there yet."""
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    processes = [start(tmp_path / str(number), cache) for number in range(3)]
    with start(victim, cache) as killed:
        said = kill(killed, 0.08)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with (
        Journal.open(cache, create=False, shared=True) as shared,
        Journal.open(victim, create=False) as own,
    ):
        assert len(shared) == 96
        assert said <= len(own) < 96
        inner = Streaming()
        for repeat in range(12):
            request = replace(REQUEST, repeat=repeat)
            scores = JournaledBackend(inner, own, shared).score(request)
            assert scores.usage == sum(map(cost, PROMPTS), Usage())
        assert inner.answered == []
    # The whole file, rows and index, under the strict eyes of a run's own journal.
    with Journal.open(cache, create=False) as checked:
        assert len(checked) == 96


@pytest.mark.parametrize("there", [False, True])
def test_many_may_open_a_cache_at_the_same_moment(there: bool, tmp_path: Path) -> None:
    """Making it and starting its log are where SQLite turns others away without waiting."""
    one = record_of(GOOD, "")
    for number in range(5):
        path = tmp_path / str(number)
        if there:
            Journal.open(path, create=True).close()
        barrier = threading.Barrier(6)

        def work(name: bytes, path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with Journal.open(path, create=True, shared=True) as cache:
                cache.put({name * 32: one})

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, (bytes([n]) for n in range(6))))
        with Journal.open(path, create=False) as journal:
            assert len(journal) == 6


def test_whom_sqlite_turns_away_at_the_start_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned_away = []

    class TurnedAway(sqlite3.Connection):
        def execute(self, query: str, *given: Any) -> sqlite3.Cursor:
            if query == "PRAGMA journal_mode = WAL" and len(turned_away) < 3:
                turned_away.append(query)
                raise sqlite3.OperationalError("database is locked")
            return super().execute(query, *given)

    connect = functools.partial(sqlite3.connect, factory=TurnedAway)
    monkeypatch.setattr("blackbox_delta._journal_file.sqlite3.connect", connect)
    with Journal.open(tmp_path / "cache", create=True, shared=True) as cache:
        assert len(cache) == 0
    assert len(turned_away) == 3


def test_a_cache_and_a_runs_own_journal_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with (
        Journal.open(path, create=True, shared=True) as cache,
        Journal.open(path, create=False, shared=True) as other,
    ):
        with pytest.raises(JournalError, match="in use"):
            Journal.open(path, create=False)
        with Journal.open(tmp_path / "run", create=True) as journal:
            JournaledBackend(Streaming(), journal, cache).score(REQUEST)
        assert len(other) == 8


def test_a_damaged_reply_in_a_cache_is_an_error_and_never_a_wrong_answer(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with (
        Journal.open(path, create=True, shared=True) as cache,
        Journal.open(tmp_path / "run", create=True) as journal,
    ):
        scores = JournaledBackend(Streaming(), journal, cache).score(REQUEST)
    content = bytearray(path.read_bytes())
    content[content.index(scores.label_logprobs[0, 3].tobytes())] ^= 1
    path.write_bytes(content)
    with (
        Journal.open(path, create=False, shared=True) as cache,
        Journal.open(tmp_path / "another", create=True) as journal,
    ):
        with pytest.raises(JournalError, match="checksum"):
            JournaledBackend(FakeBackend(), journal, cache).score(REQUEST)
        assert len(journal) == 0
