"""Tuning, evaluating and predicting through a server: what is sent and what is shown."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from command_line import result_of, run
from faulty_server import Fault, FaultyServer, scripted
from rich.console import Console
from served import ALL, MOODS, PRICED, SEARCHED, TESTED, asked, tune
from typer.testing import Result

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.cli.groups import Place
from blackbox_delta.cli.models import Source
from blackbox_delta.journal import summarise


def test_tune_shows_the_access_the_plan_and_the_money(
    finished: tuple[Path, Result], server: FaultyServer
) -> None:
    folder, done = finished
    lines, found = done.stderr.splitlines(), result_of(folder)
    assert lines[0] == (
        f"{server.url}: completions API, tier top-tokens "
        "(text in, the likeliest tokens' log-probabilities out)"
    )
    assert lines[1] == (
        "toy: 300 calls at most, 8 training and 8 development examples of 2 classes; "
        "the model takes text only, so the output side alone is tuned; "
        "a test of 20 examples besides"
    )
    assert lines[2:] == ["test: 20 of 20 queries answered"]
    assert (found["calls"], found["queries"], found["test_queries"]) == (3, SEARCHED, TESTED)
    assert found["cost_usd"] == (found["tokens"] * 10 + found["output_tokens"] * 40) / 1e6
    assert f"= {found['tokens']:,} tokens = $0.0" in done.stdout
    assert found["head"] in {"ridge", "calibrated"}
    assert "lost" not in done.stdout
    assert f"To use it all the same: blackbox-delta predict {folder} FILE" in done.stdout


def test_who_keeps_nothing_is_told_before_it_is_paid(data: Path, server: FaultyServer) -> None:
    done = tune(server.url, data)
    assert done.stderr.splitlines()[1].startswith("Without --out nothing is kept")
    local = run("tune", "--model", "fake", "--data", data, "--budget", 2, "--max-test", 2)
    assert "Without --out" not in local.stderr


def test_auto_works_through_a_server(data: Path, toy_server: FaultyServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ["--recipe", "auto", "--budget", "40 queries", *PRICED, "--out", folder]
    foretold = tune(toy_server.url, data, *more, "--model", "toy", "--dry-run")
    assert foretold.exit_code == 0, foretold.output
    assert not toy_server.requests
    bound = re.search(r"tuning +\d+(?: – \d+)? +(?:\d+ – )?(\d+) .*\$0\.\d+", foretold.stdout)
    assert bound is not None
    run("probe", toy_server.url)
    probing = asked(toy_server)
    done = tune(toy_server.url, data, *more)
    assert done.exit_code == 0, done.output
    assert "; several views of each, an answer takes at most 16 queries" in done.stderr
    found = result_of(folder)
    assert 8 < found["queries"] <= int(bound[1]) <= 40
    assert asked(toy_server) == 2 * probing + found["queries"] + found["test_queries"]
    assert f"an answer takes {found['queries_per_answer']} quer" in done.stdout
    before = len(toy_server.requests)
    again = tune(toy_server.url, data, *more, "--resume")
    assert again.exit_code == 0, again.output
    assert result_of(folder) == found
    assert len(toy_server.requests) == before
    queries = asked(toy_server)
    assert run("predict", folder, stdin="a great film\n").exit_code == 0
    assert asked(toy_server) - queries == found["queries_per_answer"]
    shown = run("journal", folder).stdout
    assert re.search(rf"views\s+{found['queries']}\s", shown)
    assert re.search(rf"test\s+{found['test_queries']}\s", shown)


def test_a_terminal_is_told_that_the_server_is_asked(server: FaultyServer) -> None:
    unknown = Source("toy", Place(), Endpoint(base_url=server.url))
    for source, told in ((unknown, "asking the server"), (unknown.assumed(), "loading the model")):
        console = Console(force_terminal=True, file=io.StringIO(), width=80, _environ={})
        with source.opened(console) as backend:
            assert backend.name == "toy"
        assert isinstance(console.file, io.StringIO)
        assert told in console.file.getvalue()


def test_the_other_faces_find_what_the_run_found(
    data: Path, finished: tuple[Path, Result], server: FaultyServer
) -> None:
    folder, _ = finished
    before = asked(server)
    done = run("eval", folder, "--data", data)
    assert re.search(rf"accuracy\s+{result_of(folder)['test_accuracy']:.3f}\s", done.stdout)
    said = run("predict", folder, stdin="a great film\n")
    assert json.loads(said.stdout)["label"] in MOODS
    assert asked(server) == before + 20 + 1, "a saved run probes nothing"


def test_answering_says_what_it_takes_before_and_after(
    data: Path, finished: tuple[Path, Result], server: FaultyServer, tmp_path: Path
) -> None:
    folder, cache = finished[0], tmp_path / "cache.sqlite"
    scored = run("eval", folder, "--data", data, "--cache", cache)
    booked = summarise(cache).total.usage
    assert scored.stderr.splitlines() == [
        "toy: 20 texts, 1 query each",
        f"Sent: 20 queries, {booked.tokens} prompt tokens, {booked.output_tokens} tokens written.",
    ]
    before = asked(server)
    lines = run("predict", folder, stdin="a great film\n").stderr.splitlines()
    assert lines[0] == "toy: 1 text, 1 query each"
    assert lines[-1].startswith("Sent: 1 query, ")
    assert asked(server) == before + 1


def test_a_model_that_has_moved_is_called_where_it_is_now(
    finished: tuple[Path, Result], server: FaultyServer, toy_server: FaultyServer, data: Path
) -> None:
    folder, _ = finished
    here = run("predict", folder, data / "test.jsonl")
    before = asked(server)
    there = run("predict", folder, data / "test.jsonl", "--base-url", toy_server.url)
    assert there.stdout == here.stdout
    scored = run("eval", folder, "--data", data, "--base-url", toy_server.url)
    assert "20 examples" in scored.stdout
    assert asked(toy_server) == 40
    assert asked(server) == before


def test_the_text_tier_counts_what_it_cannot_read(data: Path, server: FaultyServer) -> None:
    done = tune(server.url, data, "--tier", "text")
    assert done.exit_code == 0, done.output
    found = re.search(rf"([\d,]+) of {ALL} replies named no label", done.stdout)
    assert found is not None
    assert int(found[1]) > ALL / 2, "the toy model says one of fifty words"


def test_a_lost_reply_is_asked_again_and_mentioned(
    data: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with FaultyServer() as one:
        run("probe", one.url)
        spent = asked(one)
    with FaultyServer(plan=scripted([None] * spent + [Fault.NAN, Fault.NAN])) as spoilt:
        done = tune(spoilt.url, data, "--out", folder, *PRICED)
    assert done.exit_code == 0, done.output
    assert "2 more queries were lost and sent again" in done.stdout
    found, sound = result_of(folder), result_of(finished[0])
    assert found["lost_queries"] == 2
    assert found["tokens"] > sound["tokens"], "they may be billed"
    billed = {"lost_queries", "tokens", "output_tokens", "cost_usd"}
    assert {name for name in found if found[name] != sound[name]} == billed
