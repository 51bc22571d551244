"""What a run paid for, shown and exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import failed, result_of, run
from served import ALL, TESTED
from typer.testing import Result

from blackbox_delta.journal import Journal
from blackbox_delta.runs import JOURNAL_NAME


def test_the_journal_shows_what_was_spent_on_what(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    shown, found = run("journal", folder).stdout, result_of(folder)
    assert re.search(r"start\s+16\s+0\s+0\s", shown)
    assert re.search(r"development\s+8\s+0\s+0\s", shown)
    assert re.search(rf"test\s+{TESTED}\s+0\s+0\s", shown)
    tokens = found["tokens"] + found["test_tokens"]
    assert re.search(rf"total\s+{ALL}\s+0\s+0\s+{tokens:,}\s", shown)
    assert run("journal", folder / JOURNAL_NAME).stdout == shown


def test_the_journal_is_exported(finished: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = finished
    printed = run("journal", folder, "--export", "-")
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert len({line["key"] for line in lines}) == ALL
    assert {line["purpose"] for line in lines} == {"start", "development", "test"}
    done = run("journal", folder, "--export", tmp_path / "replies.jsonl")
    assert not done.stdout
    assert (tmp_path / "replies.jsonl").read_text() == printed.stdout


def test_an_export_never_overwrites_the_journal(finished: tuple[Path, Result]) -> None:
    path = finished[0] / JOURNAL_NAME
    before = path.read_bytes()
    message = failed(run("journal", finished[0], "--export", path))
    assert "is the journal itself" in message
    assert path.read_bytes() == before


def test_an_export_destroys_nothing(finished: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for name in ("artifact.json", "run.json"):
        assert "is part of a run" in failed(run("journal", folder, "--export", folder / name))
    log = folder / f"{JOURNAL_NAME}-wal"
    assert "belongs to the journal" in failed(run("journal", folder, "--export", log))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    old = tmp_path / "old.jsonl"
    old.write_text("precious\n")
    assert "no journal" in failed(run("journal", tmp_path / "nowhere", "--export", old))
    assert old.read_text() == "precious\n"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_export_onto_a_full_disk_is_one_clear_error(finished: tuple[Path, Result]) -> None:
    message = failed(run("journal", finished[0], "--export", "/dev/full"))
    assert "/dev/full cannot be written: No space left" in message


def test_the_journal_of_a_running_run_is_in_use(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    with Journal.open(folder / JOURNAL_NAME, create=False):
        assert "in use" in failed(run("journal", folder))
    assert "no journal" in failed(run("journal", folder.parent))
