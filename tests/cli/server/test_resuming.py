"""Runs that go on: what is paid is not paid again."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from command_line import PROGRAM, failed, hearing, result_of, run
from faulty_server import FaultyServer
from served import ALL, PRICED, SMALL, asked, tune
from typer.testing import Result

from blackbox_delta.journal import summarise
from blackbox_delta.runs import JOURNAL_NAME


def test_seeds_are_resumed_without_probing(
    data: Path, toy_server: FaultyServer, tmp_path: Path
) -> None:
    more = ["--seeds", 2, "--out", tmp_path / "out"]
    first = tune(toy_server.url, data, *more)
    assert first.exit_code == 0, first.output
    before = len(toy_server.requests)
    again = tune(toy_server.url, data, *more, "--resume")
    assert again.exit_code == 0, again.output
    assert len(toy_server.requests) == before
    verdicts = [
        next(line for line in done.stdout.splitlines() if line.startswith("Verdict: "))
        for done in (first, again)
    ]
    assert verdicts[0] == verdicts[1]
    message = failed(tune(toy_server.url, data, *more, "--resume", "--tier", "text"))
    assert "seed-13 was started with --tier top-tokens, not text" in message


def test_resuming_a_finished_run_asks_nothing(
    data: Path, finished: tuple[Path, Result], server: FaultyServer
) -> None:
    folder, first = finished
    before, requests = result_of(folder), len(server.requests)
    again = tune(server.url, data, "--out", folder, "--resume", *PRICED)
    assert again.exit_code == 0, again.output
    assert len(server.requests) == requests, "not even for its models"
    assert result_of(folder) == before
    assert "Verdict: " in again.stdout
    assert again.stdout.splitlines()[:8] == first.stdout.splitlines()[:8]


def test_a_run_is_resumed_in_the_way_it_was_started(
    data: Path, finished: tuple[Path, Result], server: FaultyServer
) -> None:
    folder, _ = finished
    more = ["--out", folder, "--resume", *PRICED]
    message = failed(tune(server.url, data, *more, "--tier", "text"))
    assert "started with --tier top-tokens, not text" in message
    assert "another run" in failed(tune(server.url, data, *more, "--seed", 14))


def test_ctrl_c_ends_with_one_sentence_and_pays_nothing_twice(
    data: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with FaultyServer(hold=0.2) as slow:
        options = ["--base-url", slow.url, "--data", data, *SMALL, *PRICED, "--out", folder]
        options += ["--concurrency", 2]
        with subprocess.Popen(
            [*PROGRAM, "tune", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hearing,  # noqa: PLW1509
        ) as process:
            deadline = time.monotonic() + 60
            while sum(" story" in text for text in list(slow.answered)) < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert not stdout
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1] == "Stopped; go on with the same command and --resume."
        kept = summarise(folder / JOURNAL_NAME).total.replies
        assert 0 < kept < ALL
        slow.hold, before = 0.0, asked(slow)
        resumed = run("tune", *options, "--resume")
        assert resumed.exit_code == 0, resumed.output
        assert asked(slow) - before == ALL - kept, "answered queries are not repeated"
    # What was under way at the interruption may be billed, and is in the books.
    spent = {"lost_queries", "tokens", "output_tokens", "cost_usd", "calls"}
    after, whole = result_of(folder), result_of(finished[0])
    assert 0 <= after["lost_queries"] <= 2
    assert (after["cost_usd"] > whole["cost_usd"]) == (after["lost_queries"] > 0)
    # The server is another one, but it says the same.
    assert {name: after[name] for name in after.keys() - spent} == {
        name: whole[name] for name in whole.keys() - spent
    }
