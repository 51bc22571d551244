from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blackbox_delta._journal_file import VERSION
from blackbox_delta._journal_record import COLUMNS
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError, JournalError
from blackbox_delta.journal import Journal, JournaledBackend, Record, check_reply
from blackbox_delta.testing import check_backend
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    SoftSlot,
    Usage,
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as opened:
        yield opened


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


# ------------------------------------------------------------------------- paying once


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


# ------------------------------------------------------------------------- broken replies


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


# ------------------------------------------------------------------------- the file


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(FINITE, max_size=4),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), FINITE), max_size=4),
    st.lists(st.integers(0, 2**63 - 1), min_size=7, max_size=7),
    st.floats(0, 1e6),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
    st.booleans(),
)
def test_a_record_comes_back_as_it_was(
    labels: list[float],
    top: list[tuple[int, float]],
    counts: list[int],
    seconds: float,
    purpose: str,
    cached: bool,
) -> None:
    record = Record(
        np.array(labels, dtype=np.float32),
        np.array([identifier for identifier, _ in top], dtype=np.int64),
        np.array([value for _, value in top], dtype=np.float32),
        Usage(*counts[:3], seconds, *counts[3:]),
        purpose,
        cached,
    )
    row = record.to_row(b"k" * 32)
    back = Record.from_row(row)
    assert back.to_row(b"k" * 32) == row
    assert (back.usage, back.purpose, back.cached) == (record.usage, purpose, cached)
    for name in ("label_logprobs", "top_ids", "top_logprobs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(record, name))
    changed: list[tuple[object, ...]] = [(b"K" + b"k" * 31, *row[1:])]
    for column in range(2, len(row)):
        other = row[column] + ("x" if column == 2 else 1 if row[column] < 2**62 else -1)
        changed.append((*row[:column], other, *row[column + 1 :]))
    for broken in changed:
        with pytest.raises(ValueError, match="checksum"):
            Record.from_row(broken)


def test_every_cost_has_a_column_and_a_change_there_is_a_new_version() -> None:
    assert (VERSION, COLUMNS) == (
        2,
        (
            "key",
            "reply",
            "purpose",
            "cached",
            "queries",
            "tokens",
            "computed_tokens",
            "seconds",
            "output_tokens",
            "lost",
            "bounded",
            "unparsed",
        ),
    )


def test_a_missing_journal_is_made_only_when_asked(path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(path, create=False)
    assert not path.exists()
    Journal.open(path, create=True).close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(path.parent / "no folder" / "journal.sqlite", create=True)


def test_a_process_killed_before_the_first_write_leaves_a_usable_file(path: Path) -> None:
    path.touch()
    with Journal.open(path, create=False) as journal:
        assert len(journal) == 0


def test_a_journal_in_use_is_refused_at_once(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalError, match="in use"):
        Journal.open(path, create=True)
    code = (
        "import sys; from pathlib import Path; from blackbox_delta.journal import Journal\n"
        "try: Journal.open(Path(sys.argv[1]), create=True)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.startswith("JournalError")
    assert "in use by another process" in shown.stdout
    JournaledBackend(FakeBackend(), journal).score(request_for([1], [0]))
    journal.close()
    with Journal.open(path, create=False) as reopened:
        assert len(reopened) == 1


def _make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE something (x)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("content", [b"x", b"not a database" * 100, bytes(4096), None])
def test_a_file_that_is_no_journal_is_left_alone(path: Path, content: bytes | None) -> None:
    if content is None:
        _make_foreign(path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(JournalError, match=r"not a journal|damaged"):
            Journal.open(path, create=create)
    assert path.read_bytes() == before


def test_a_newer_version_is_refused(journal: Journal, path: Path) -> None:
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(JournalError, match="newer version"):
        Journal.open(path, create=False)


def test_a_full_disk_loses_nothing(journal: Journal, path: Path) -> None:
    backend = JournaledBackend(FakeBackend(), journal)
    first = backend.score(request_for([1], [0, 1]))
    # SQLite's own limit fails in the same way as a disk without room.
    journal._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(JournalError, match=r"full.*nothing that it held was lost"):
        backend.score(request_for(list(range(2, 60)), [0, 1, 2, 3, 4]))
    assert bits(backend.score(request_for([1], [0, 1]))) == bits(first)
    journal.close()
    with Journal.open(path, create=False) as reopened:
        assert len(reopened) == 2


@pytest.fixture(scope="module")
def sound() -> tuple[bytes, Scores]:
    """A journal's bytes, and what it must answer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with Journal.open(path, create=True) as journal:
            backend = JournaledBackend(FakeBackend(), journal)
            scores = backend.score(request_for(list(range(8)), list(range(6))))
        return path.read_bytes(), scores


@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 255)), max_size=3),
    cut=st.none() | st.integers(1, 20_000),
)
@example(flips=[(3863, 128)], cut=None)  # in the schema: a name that is not UTF-8
@example(flips=[(18, 3), (19, 3)], cut=None)  # the write-ahead mode's mark
@example(flips=[(96, 1)], cut=None)  # a field that nothing depends on
def test_damage_is_an_error_and_never_a_wrong_answer(
    sound: tuple[bytes, Scores], flips: list[tuple[int, int]], cut: int | None
) -> None:
    whole, expected = sound
    damaged = bytearray(whole)
    for place, flip in flips:
        damaged[place % len(whole)] ^= flip
    length = len(whole) if cut is None else cut
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        path.write_bytes(damaged[:length])
        try:
            with Journal.open(path, create=False) as journal:
                backend = JournaledBackend(FakeBackend(fail_at=[1]), journal)
                scores = backend.score(request_for(list(range(8)), list(range(6))))
        except JournalError:
            assert bytes(damaged[:length]) != whole
            return
    assert bits(scores) == bits(expected)


# ------------------------------------------------------------------------- SIGKILL

SCORING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_journal import FakeBackend, Journal, JournaledBackend, request_for
print("ready", flush=True)
with Journal.open(Path(sys.argv[2]), create=True) as journal:
    backend = JournaledBackend(FakeBackend(), journal)
    for step in range(10_000):
        backend.score(request_for([2 * step, 2 * step + 1], list(range(6))))
        print(step, flush=True)
"""


def _score_until_killed(path: Path, finished: int, delay: float) -> int:
    """Kills the process some time after so many requests; returns how many it had finished."""
    command = [sys.executable, "-c", SCORING, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = [process.stdout.readline() for _ in range(1 + finished)]
        assert started[0] == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        return finished + len(process.stdout.read().split())


def test_sigkill_at_any_moment_loses_no_paid_reply(path: Path) -> None:
    rng = random.Random(0)
    finished = 0
    # The first kills fall into the making of the file, the others into its writing.
    for wait_for, longest in ((0, 0.01), (0, 0.02), (1, 0.1), (1, 0.2), (1, 0.3)):
        finished = max(finished, _score_until_killed(path, wait_for, rng.uniform(0, longest)))
        with Journal.open(path, create=True) as journal:
            requests, rest = divmod(len(journal), 12)
            assert rest == 0, "a reply was written in part"
            assert requests >= finished >= wait_for, "a reply was used before it was written"
            backend = JournaledBackend(FakeBackend(), journal)
            for step in range(requests):
                request = request_for([2 * step, 2 * step + 1], list(range(6)))
                assert_same(backend.score(request), FakeBackend().score(request))
            assert backend.paid == 0
