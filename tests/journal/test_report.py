from __future__ import annotations

import io
import json
import math
import signal
import sqlite3
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox_delta.errors import JournalError
from blackbox_delta.journal import Journal, Record, Spending, Summary, export, summarise
from blackbox_delta.types import Usage

RNG = np.random.default_rng(0)


def record(purpose: str, usage: Usage, cached: bool = False) -> Record:
    numbers = RNG.standard_normal(5).astype(np.float32)
    return Record(numbers[:2], RNG.integers(0, 99, 3), numbers[2:], usage, purpose, cached)


RECORDS = {
    RNG.bytes(32): record(purpose, Usage(1, 10 + n, n, n / 8, 1, n % 2, n % 3, n % 4), cached)
    for n, (purpose, cached) in enumerate(
        [("search", False), ("test", False), ("search", True), ("", False), ("search", False)]
    )
} | {RNG.bytes(32): Record.loss(Usage(lost=3), "search")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path, create=True) as journal:
        journal.put(RECORDS)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    stream = io.StringIO()
    export(path, stream)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file there, what is in it and when it was written."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


SUMMARY = Summary(
    (
        Spending("", 0, Usage(1, 13, 3, 0.375, 1, 1, 0, 3)),
        # Two that were paid, one from the cache, and three queries lost for nothing.
        Spending("search", 1, Usage(2, 24, 4, 0.5, 2, 3, 1, 0)),
        Spending("test", 0, Usage(1, 11, 1, 0.125, 1, 1, 1, 1)),
    ),
    Spending("", 1, Usage(4, 48, 8, 1.0, 4, 5, 2, 4)),
)


def test_what_was_spent_on_what(path: Path) -> None:
    summary = summarise(path)
    assert summary == SUMMARY
    assert (summary.total.replies, summary.total.sent) == (5, 9)


def test_the_total_is_the_sum_of_the_purposes(path: Path) -> None:
    purposes = summarise(path).purposes
    for field in fields(Usage):
        total = math.fsum(getattr(spending.usage, field.name) for spending in purposes)
        assert total == getattr(summarise(path).total.usage, field.name)


def test_every_record_is_exported_in_the_order_of_the_keys(path: Path) -> None:
    exported = lines(path)
    assert [line["key"] for line in exported] == sorted(key.hex() for key in RECORDS)
    for line in exported:
        expected = RECORDS[bytes.fromhex(line["key"])]
        assert (line["purpose"], line["cached"]) == (expected.purpose, expected.cached)
        assert {name: line[name] for name in asdict(expected.usage)} == asdict(expected.usage)
        for name in ("label_logprobs", "top_ids", "top_logprobs"):
            value = getattr(expected, name)
            np.testing.assert_array_equal(np.array(line[name], dtype=value.dtype), value)


def test_an_empty_journal_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal.open(path, create=True).close()
    assert summarise(path) == Summary((), Spending(""))
    assert lines(path) == []


def test_reading_leaves_no_trace(path: Path) -> None:
    before = state(path.parent)
    path.parent.chmod(0o500)
    try:
        assert summarise(path) == SUMMARY
        assert len(lines(path)) == 6
    finally:
        path.parent.chmod(0o700)
    assert state(path.parent) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_report import *
journal = Journal.open(Path(sys.argv[2]), create=True, shared=sys.argv[3] == "shared")
journal.put(RECORDS)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_what_a_killed_run_left_is_read_without_a_trace(how: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path), how]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    before = state(tmp_path)
    assert f"{path.name}-wal" in before, "the replies are still in the log"
    spent = summarise(path).total
    assert (spent.replies, spent.sent, len(lines(path))) == (5, 9, 6)
    assert state(tmp_path) == before
    with Journal.open(path, create=False) as journal:
        assert len(journal) == 6
    assert not path.with_name(f"{path.name}-wal").exists()


def test_a_cache_is_read_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with Journal.open(path, create=True, shared=True) as cache:
        cache.put(RECORDS)
        assert summarise(path) == SUMMARY
        cache.put({b"k" * 32: record("late", Usage(1))})
        assert summarise(path).total.replies == 6
    assert len(lines(path)) == 7


def test_a_run_in_progress_is_in_use(path: Path) -> None:
    with Journal.open(path, create=False) as journal:
        for read in (summarise, lines):
            with pytest.raises(JournalError, match="in use"):
                read(path)
        # The lock still holds, and so does the journal.
        with pytest.raises(JournalError, match="in use"):
            Journal.open(path, create=False)
        journal.put({b"k" * 32: record("late", Usage(1))})
    assert summarise(path).total.replies == 6


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"user_version": 3}, "newer version"),
        ({"user_version": 1}, "earlier version"),
        ({"application_id": 7}, "not a journal"),
    ],
)
def test_another_version_is_refused(marks: dict[str, int], message: str, path: Path) -> None:
    connection = sqlite3.connect(path)
    for name, value in marks.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.close()
    before = state(path.parent)
    for read in (summarise, lines):
        with pytest.raises(JournalError, match=message):
            read(path)
    assert state(path.parent) == before


def test_a_missing_journal_is_not_made(tmp_path: Path) -> None:
    for path in (tmp_path / "journal.sqlite", tmp_path, tmp_path / "no folder" / "journal.sqlite"):
        with pytest.raises(JournalError, match="no journal at"):
            summarise(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x" * 5000, None])
def test_a_damaged_journal_is_an_error(content: bytes | None, path: Path) -> None:
    if content is None:
        damaged = bytearray(path.read_bytes())
        damaged[damaged.index(next(iter(RECORDS.values())).label_logprobs.tobytes())] ^= 1
        content = bytes(damaged)
    path.write_bytes(content)
    for read in (summarise, lines):
        with pytest.raises(JournalError, match="damaged"):
            read(path)
    assert path.read_bytes() == content
