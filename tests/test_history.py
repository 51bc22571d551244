from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import RunError
from blackbox_delta.history import History, read_history
from blackbox_delta.types import Json

RECORDS: list[Json] = [
    {
        "generation": i,
        "best": 1 / (i + 3),
        "dev": {"accuracy": 0.5, "seconds": 0.1},
        "ask_seconds": i,
    }
    for i in range(4)
]


def _write(path: Path, records: list[Json]) -> None:
    with History.open(path, resume=False) as history:
        for record in records:
            history.append(record)


def test_each_record_is_on_the_disk_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History.open(path, resume=False) as history:
        for count, record in enumerate(RECORDS, 1):
            history.append(record)
            lines = path.read_text().splitlines()
            assert [json.loads(line) for line in lines] == RECORDS[:count]
        assert history.records == RECORDS


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_history_torn_anywhere_is_continued_to_the_same_file(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        _write(path, RECORDS)
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        assert read_history(path) == RECORDS[: whole[:cut].count(b"\n")]
        with History.open(path, resume=True) as history:
            for record in RECORDS:
                history.append(record)
        assert path.read_bytes() == whole


def test_a_resumed_run_may_differ_in_times_and_keeps_the_first_ones(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _write(path, RECORDS[:2])
    slower = [{**r, "ask_seconds": 99, "dev": {"accuracy": 0.5, "seconds": 7.0}} for r in RECORDS]
    with History.open(path, resume=True) as history:
        for record in slower:
            history.append(record)
        assert history.records == RECORDS[:2] + slower[2:]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"best": 0.25000001}, "best"),
        ({"dev": {"accuracy": 0.6, "seconds": 0.1}}, "dev"),
        ({"more": None}, "more"),
    ],
)
def test_another_runs_history_is_refused(tmp_path: Path, change: Json, named: str) -> None:
    path = tmp_path / "history.jsonl"
    _write(path, RECORDS)
    before = path.read_bytes()
    with History.open(path, resume=True) as history:
        history.append(RECORDS[0])
        with pytest.raises(RunError, match=rf"made by another run: line 2 .* differs in {named};"):
            history.append(RECORDS[1] | change)
    assert path.read_bytes() == before


def test_a_new_run_does_not_write_over_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _write(path, RECORDS)
    with pytest.raises(RunError, match="exists already"):
        History.open(path, resume=False)
    assert read_history(path) == RECORDS


def test_resume_starts_a_file_that_a_kill_never_let_begin(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.jsonl", resume=True) as history:
        history.append(RECORDS[0])
        assert history.records == RECORDS[:1]


@pytest.mark.parametrize("line", [b"{nonsense}", b"[1, 2]", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"generation": 0}\n' + line + b"\n")
    with pytest.raises(RunError, match=r"line 2 of .* is damaged"):
        read_history(path)
    with pytest.raises(RunError, match=r"line 2 of .* is damaged"):
        History.open(path, resume=True)


def test_missing_files_and_folders_are_run_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        read_history(tmp_path / "none.jsonl")
    with pytest.raises(RunError, match="cannot be opened"):
        History.open(tmp_path / "no folder" / "history.jsonl", resume=False)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History.open(path, resume=False) as history, pytest.raises(ValueError, match="not JSON"):
        history.append({"best": float("nan")})
    assert path.read_bytes() == b""
