from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journaling import assert_same, bits, request_for

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import JournalError
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.types import Scores


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as opened:
        yield opened


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


# ----------------------------------------------------------------------------------------- SIGKILL

SCORING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from journaling import request_for
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.journal import Journal, JournaledBackend
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
