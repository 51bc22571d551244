"""Replies that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import failed, result_of, run
from faulty_server import Fault, FaultyServer, healthy
from served import ALL, asked, tune
from typer.testing import Result

from blackbox_delta.journal import summarise
from blackbox_delta.runs import JOURNAL_NAME


def test_runs_share_what_they_paid(data: Path, toy_server: FaultyServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    reports = []
    for name in ("one", "two"):
        probed = asked(toy_server)
        done = tune(toy_server.url, data, "--out", tmp_path / name, "--cache", cache)
        assert done.exit_code == 0, done.output
        reports.append((result_of(tmp_path / name), asked(toy_server) - probed))
    (first, paid), (second, probe_alone) = reports
    assert second == first
    assert paid - probe_alone == first["queries"] + first["test_queries"] == ALL
    assert f"{ALL} of these queries came from {cache} and cost nothing." in " ".join(
        done.stdout.split()
    )
    shown = run("journal", tmp_path / "two").stdout
    assert f"{ALL} replies came from a shared cache and cost nothing." in shown
    assert re.search(rf"total\s+0\s+{ALL}\s+0", shown)
    assert re.search(rf"total\s+{ALL}\s+0\s+0", run("journal", cache).stdout)


def test_a_larger_budget_takes_over_what_a_smaller_one_paid(
    data: Path, toy_server: FaultyServer, tmp_path: Path
) -> None:
    """As the error of a resumption with another budget advises."""
    first, second = tmp_path / "first", tmp_path / "second"
    auto = ["--recipe", "auto", "--max-test", 4]
    smaller = [*auto, "--budget", "24 queries", "--out", first]
    assert tune(toy_server.url, data, *smaller).exit_code == 0
    larger = [*auto, "--budget", "40 queries"]
    refused = tune(toy_server.url, data, *larger, "--out", first, "--resume")
    message = " ".join(failed(refused).split())
    cache = first / JOURNAL_NAME
    assert f"with --cache {cache} what is paid already is not paid again" in message
    done = tune(toy_server.url, data, *larger, "--out", second, "--cache", cache)
    assert done.exit_code == 0, done.output
    assert summarise(second / JOURNAL_NAME).total.cached >= 24
    again = tune(toy_server.url, data, *smaller, "--resume")
    assert again.exit_code == 0, again.output
    # The first run's books are its own.
    shown = result_of(first)
    assert summarise(cache).total.replies == shown["queries"] + shown["test_queries"]
    for command in ("predict", "eval"):
        rest = ["--data", data] if command == "eval" else []
        refused = run(command, first, *rest, "--cache", cache, stdin="a film")
        assert "is the journal of a run" in " ".join(failed(refused).split())
        assert "is a folder; name a file" in failed(
            run(command, first, *rest, "--cache", "", stdin="a film")
        )


@pytest.fixture
def breaks_down(tmp_path: Path) -> Iterator[tuple[str, FaultyServer]]:
    """A file of 140 texts, and a server that turns away the one before the last five."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"film number {n}\n" for n in range(140)))
    with FaultyServer() as one:
        one.plan = lambda _number, prompts: (
            Fault.REDIRECT if any("number 135" in prompt for prompt in prompts) else None
        )
        yield str(texts), one


def sent(done: Result) -> int:
    """Queries that a command says it has sent."""
    told = re.search(r"^Sent: (\d+) quer(?:y|ies), ", done.stderr, re.MULTILINE)
    assert told is not None
    return int(told[1])


def test_a_repeated_prediction_pays_for_nothing_twice(
    breaks_down: tuple[str, FaultyServer], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    texts, one = breaks_down
    output, cache = tmp_path / "answers.jsonl", tmp_path / "cache.sqlite"
    predict = ["predict", finished[0], texts, "--base-url", one.url, "--output", output]
    broken = run(*predict)
    assert "With --cache FILE, what is answered is paid once" in failed(broken)
    assert sent(broken) == one.answered.total() >= 128
    partial = tmp_path / "answers.jsonl.partial"
    left = partial.read_text()
    assert len(left.splitlines()) == 128
    one.answered.clear()
    assert "is there already" in failed(run(*predict))
    assert not one.answered
    message = " ".join(failed(run(*predict, "--cache", cache)).split())
    assert f"answered is in {cache}: the same command goes on" in message
    assert one.answered.total() >= 128
    one.plan = healthy
    before = one.answered.total()
    done = run(*predict, "--cache", cache)
    assert done.exit_code == 0, done.output
    assert sent(done) == 140 - before
    assert max(one.answered.values()) == 1
    assert len(output.read_text().splitlines()) == 140
    assert one.answered.total() == 140
    assert partial.read_text() == left
    # Anybody who shares the file is spared them too.
    again = run("predict", finished[0], texts, "--base-url", one.url, "--cache", cache)
    assert again.stdout == output.read_text()
    assert one.answered.total() == 140
    assert "Sent:" not in again.stderr


def test_a_repeated_evaluation_pays_for_nothing_twice(
    data: Path, finished: tuple[Path, Result], toy_server: FaultyServer, tmp_path: Path
) -> None:
    command = ["eval", finished[0], "--data", data, "--base-url", toy_server.url]
    bare = run(*command)
    before = asked(toy_server)
    first, second = (run(*command, "--cache", tmp_path / "cache") for _ in range(2))
    assert first.stdout == second.stdout == bare.stdout
    assert asked(toy_server) - before == 20
    toy_server.plan = lambda *_: Fault.REDIRECT
    assert "With --cache FILE, what is answered is paid once" in failed(run(*command))


def test_a_file_that_is_no_cache_costs_no_query(
    finished: tuple[Path, Result], server: FaultyServer, tmp_path: Path
) -> None:
    notes, before = tmp_path / "notes.txt", len(server.requests)
    notes.write_text("mine")
    assert "notes.txt" in failed(run("predict", finished[0], "--cache", notes, stdin="a film"))
    assert notes.read_text() == "mine"
    assert len(server.requests) == before


def test_a_file_that_is_no_cache_leaves_no_folder(
    data: Path, server: FaultyServer, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    message = failed(tune(server.url, data, "--out", tmp_path / "run", "--cache", notes))
    assert "notes.txt" in message
    assert notes.read_text() == "mine"
    assert not (tmp_path / "run").exists()
