"""Journals that several runs share."""

from __future__ import annotations

import functools
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journaling import bits
from streaming import FILMS, GOOD, REQUEST, Streaming, cost, kill, start

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import JournalError
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.journal.pairs import record_of
from blackbox_delta.types import Usage


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
            assert scores.usage == sum(map(cost, FILMS), Usage())
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
    monkeypatch.setattr("blackbox_delta.journal.file.sqlite3.connect", connect)
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
