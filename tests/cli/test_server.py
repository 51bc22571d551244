"""The command line on a small real server: what is sent, what is shown, what it costs."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import BAD, GREAT, OTHER, PROGRAM, WORDS, failed, result_of, run, write_lines
from faulty_server import Fault, FaultyServer, healthy, scripted
from rich.console import Console
from typer.testing import CliRunner, Result

from blackbox_delta._cli_groups import Place
from blackbox_delta._cli_models import Source
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.cli import app
from blackbox_delta.journal import Journal, summarise
from blackbox_delta.report import ASKED_AGAIN
from blackbox_delta.runs import JOURNAL_NAME
from blackbox_delta.types import Json

MOODS = {"positive": GREAT, "negative": BAD}
#: Two starts on 8 training examples, the better one on 8 development examples; then 20 test
#: examples, some of them twice.
SEARCHED, TESTED = 24, 20 + ASKED_AGAIN
ALL = SEARCHED + TESTED
#: The recipe of which it is known beforehand what it asks: nothing is searched through text alone.
SMALL = ["--recipe", "search", "--shots", 4, "--seed", 13, "--label-words", WORDS]
PRICED = ["--price-in", 10, "--price-out", 40]
KEY = "sk-toy-5f0e1d2c3b4a"


def sentences(count: int, rng: random.Random) -> list[Json]:
    """Labelled lines, ``count`` a class, no two alike."""
    return [
        {"text": " ".join([*rng.sample(OTHER, 6), *rng.sample(own, 2), str(n)]), "label": label}
        for n in range(count)
        for label, own in MOODS.items()
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for part, count in (("train", 8), ("test", 10)):
        write_lines(folder / f"{part}.jsonl", sentences(count, rng))
    return folder


def tune(url: str, data: Path, *more: object) -> Result:
    return run("tune", "--base-url", url, "--data", data, *SMALL, *more)


def asked(server: FaultyServer) -> int:
    """Queries that arrived."""
    return int(server.received.total())


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as one:
        yield one


@pytest.fixture(scope="module")
def finished(
    data: Path, server: FaultyServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = tune(server.url, data, "--out", folder, *PRICED)
    assert done.exit_code == 0, done.output
    return folder, done


# ------------------------------------------------------------------ probing


def test_probe_says_what_to_run_next_and_it_runs(
    data: Path, toy_server: FaultyServer, tmp_path: Path
) -> None:
    done = run("probe", toy_server.url, "--concurrency", 4, "--timeout", 30, "--api", "completions")
    assert done.exit_code == 0, done.output
    assert re.search(r"^\s*models\s+toy\s+yes\s*$", done.stdout, re.MULTILINE)
    assert re.search(r"log-probabilities\s+the 50 likeliest tokens\s+yes", done.stdout)
    assert f"Asked {asked(toy_server)} queries." in done.stdout
    assert "Tier: top-tokens (text in, the likeliest tokens' log-probabilities out)" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("Next: ")]
    program, *command = shlex.split(line.removeprefix("Next: "))
    assert program == "blackbox-delta"
    for option, value in {"base-url": toy_server.url, "model": "toy", "concurrency": "4"}.items():
        assert command[command.index(f"--{option}") + 1] == value
    filled = {"FOLDER": data, "RUN": tmp_path / "run"}
    again = run(*(filled.get(part, part) for part in command), *SMALL)
    assert again.exit_code == 0, again.output


def test_a_table_is_no_wider_than_the_terminal(server: FaultyServer) -> None:
    table, _, _ = run("probe", server.url).stdout.partition("Asked ")
    assert max(map(len, table.splitlines())) <= 80


def test_probing_may_ask_for_a_tier(server: FaultyServer) -> None:
    done = run("probe", server.url, "--tier", "text")
    assert "Tier: text (text in, text out: answers are read by a rule)" in done.stdout
    message = failed(run("probe", server.url, "--tier", "embeddings"))
    assert "does not offer the tier 'embeddings'; it offers top-tokens, text" in message


# ------------------------------------------------------------------ the round trip


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
        "the model takes text only, so the output side alone is tuned"
    )
    assert lines[2:] == ["test: 20 of 20 queries answered"]
    assert (found["calls"], found["queries"], found["test_queries"]) == (3, SEARCHED, TESTED)
    assert found["cost_usd"] == (found["tokens"] * 10 + found["output_tokens"] * 40) / 1e6
    assert f"= {found['tokens']:,} tokens = $0.0" in done.stdout
    assert found["head"] in {"ridge", "calibrated"}
    assert "lost" not in done.stdout
    assert f"Next: blackbox-delta predict {folder} FILE" in done.stdout


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


# ------------------------------------------------------------------ a saved run's cache


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


def test_a_repeated_prediction_pays_for_nothing_twice(
    breaks_down: tuple[str, FaultyServer], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    texts, one = breaks_down
    output, cache = tmp_path / "answers.jsonl", tmp_path / "cache.sqlite"
    predict = ["predict", finished[0], texts, "--base-url", one.url, "--output", output]
    message = failed(run(*predict))
    assert "With --cache FILE, what is answered is paid once" in message
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
    done = run(*predict, "--cache", cache)
    assert done.exit_code == 0, done.output
    assert max(one.answered.values()) == 1
    assert len(output.read_text().splitlines()) == 140
    assert one.answered.total() == 140
    assert partial.read_text() == left
    # Anybody who shares the file is spared them too.
    again = run("predict", finished[0], texts, "--base-url", one.url, "--cache", cache)
    assert again.stdout == output.read_text()
    assert one.answered.total() == 140


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


# ------------------------------------------------------------------ money


def test_a_dry_run_sends_nothing(
    data: Path, toy_server: FaultyServer, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more = ["--model", "toy", "--dry-run", "--out", folder, *PRICED]
    done = tune(toy_server.url, data, *more)
    assert done.exit_code == 0, done.output
    assert not toy_server.requests
    assert not folder.exists()
    assert "Nothing was sent." in done.stdout
    assert f"Assumed: {toy_server.url}: completions API, tier top-tokens" in done.stdout
    found = result_of(finished[0])
    assert re.search(rf"search\s+{found['calls']}\s+{found['queries']}\s", done.stdout)
    assert found["test_queries"] == TESTED
    assert re.search(rf"test\s+1\s+{TESTED}\s", done.stdout)
    assert re.search(rf"together\s+4\s+{ALL}\s.*\$0\.0", done.stdout)
    assert "Tokens are estimated" in done.stdout


def test_a_dry_run_of_a_known_server_sends_nothing_either(
    data: Path, toy_server: FaultyServer
) -> None:
    done = tune(toy_server.url, data, "--model", "toy", "--dry-run", "--preset", "vllm")
    assert done.exit_code == 0, done.output
    assert not toy_server.requests
    assert "tier label-logprobs" in done.stdout


def test_prices_come_from_a_table(data: Path, server: FaultyServer, tmp_path: Path) -> None:
    table = tmp_path / "prices.json"
    table.write_text(json.dumps({"toy": {"input": 10, "output": 40}}))
    more = ["--model", "toy", "--prices", table, "--budget", "$0.01", "--out", tmp_path / "run"]
    done = tune(server.url, data, *more)
    assert done.exit_code == 0, done.output
    assert "toy: $0.01 at most" in done.stderr
    found = result_of(tmp_path / "run")
    assert found["budget"] == "$0.01"
    assert 0 < found["cost_usd"] <= 0.01
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["price_in"], settings["price_out"]) == (10, 40)


# ------------------------------------------------------------------ the journal


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


# ------------------------------------------------------------------ Ctrl-C


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
            # A shell that runs the tests in the background has made them deaf to it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
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


# ------------------------------------------------------------------ keys


def test_a_key_opens_the_server_and_stays_out_of_everything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    folder = tmp_path / "run"
    with FaultyServer(key=KEY) as locked:
        options = ["tune", "--base-url", locked.url, "--data", data, *SMALL, "--out", folder]
        done = run("--verbose", *options, "--key-env", "TOY_KEY")
        assert done.exit_code == 0, done.output
        [line] = [line for line in done.stdout.splitlines() if line.startswith("Next: ")]
        assert line.endswith("--key-env TOY_KEY")
        predict = ["predict", folder, "--key-env", "TOY_KEY"]
        assert run(*predict, stdin="a film").exit_code == 0
        scored = run("eval", folder, "--data", data, "--key-env", "TOY_KEY")
        assert scored.exit_code == 0, scored.output
        untold = failed(run("predict", folder, stdin="a film"))
        assert "needs one" in untold
        assert "no key was sent, for a saved run does not say which one; add --key-env" in untold
        assert run(*options, *map(str, ("--resume", "--key-env", "TOY_KEY"))).exit_code == 0
        monkeypatch.delenv("TOY_KEY")
        assert "TOY_KEY" in failed(run(*predict, stdin="a film"))
        assert "does not accept the API key, or needs one" in failed(run("probe", locked.url))
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(written) >= 5
    for content in (*written, done.output.encode()):
        assert KEY.encode() not in content


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tier", "text"], "--tier is about a server; say which one with --base-url"),
        (["--key-file", "key"], "--key-file is about a server"),
        (["--requests-per-minute", 5], "--requests-per-minute is about a server"),
    ],
)
def test_server_options_need_a_server(options: list[object], expected: str, data: Path) -> None:
    done = run("tune", "--model", "fake", "--data", data, *SMALL, *options)
    assert expected in failed(done)


BAD_OPTIONS: dict[str, tuple[list[object], str]] = {
    "a device": (["--device", "cpu"], "device and dtype are for local models"),
    "no such tier": (["--tier", "best"], "tier: input should be 'embeddings', 'label-logprobs'"),
    "no such preset": (["--preset", "acme"], "there is no preset 'acme'; choose one of vllm"),
    "no such API": (["--api", "soap"], "api: input should be 'completions'"),
    "no time": (["--timeout", 0], "timeout: input should be greater than 0"),
    "no requests": (["--concurrency", 0], "concurrency: input should be greater than"),
    "no such variable": (["--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
    "no such key file": (["--key-file", "/no/such/key"], "/no/such/key cannot be read"),
    "dry run without a name": (["--dry-run"], "name the model with --model"),
    "prices without a name": (["--prices", "prices.json"], "add --model"),
    "prices twice": (["--prices", "x", "--price-in", 1], "not both"),
    "one price": (["--price-in", 1], "price_out is missing"),
    "dollars without prices": (["--budget", "$1"], "needs prices"),
    "garbled budget": (["--budget", "much"], "budget 'much' cannot be read"),
    "garbled template": (["--template", "{text}"], "{label}"),
    "cache without out": (["--cache", "x"], "--cache needs the run folder: add --out RUN"),
    "no such price table": (["--model", "m", "--prices", "/no/such"], "/no/such cannot be read"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_what_cannot_work_sends_nothing(case: str, data: Path, server: FaultyServer) -> None:
    options, expected = BAD_OPTIONS[case]
    before = len(server.requests)
    assert expected in failed(tune(server.url, data, *options))
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "gpt"], "'gpt' is not among its models: toy"),
        (["--tier", "embeddings"], "does not offer the tier 'embeddings'"),
        (["--template", "{text}{soft} {label}"], "takes no soft prompts"),
        (["--budget", 2], "budget of 2 calls is too small"),
    ],
)
def test_what_the_server_lacks_is_one_clear_error(
    options: list[object], expected: str, data: Path, server: FaultyServer, tmp_path: Path
) -> None:
    assert expected in failed(tune(server.url, data, "--out", tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_cache_leaves_no_folder(
    data: Path, server: FaultyServer, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    message = failed(tune(server.url, data, "--out", tmp_path / "run", "--cache", notes))
    assert "notes.txt" in message
    assert notes.read_text() == "mine"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "ftp://example.org", "nonsense"])
def test_a_wrong_url_is_one_clear_error(url: str, data: Path) -> None:
    assert failed(tune(url, data))
    assert failed(run("probe", url))


def test_a_local_run_has_no_url(data: Path, tmp_path: Path, server: FaultyServer) -> None:
    small = ["--dimension", 5, "--budget", 26, "--out", tmp_path / "run"]
    assert run("tune", "--model", "fake", "--data", data, *SMALL, *small).exit_code == 0
    command = ["eval", tmp_path / "run", "--data", data]
    message = failed(run(*command, "--base-url", server.url))
    assert "tuned on a local model; leave --base-url out" in message
    assert "tuned on a local model; leave key_env out" in failed(run(*command, "--key-env", "KEY"))


# ------------------------------------------------------------------ help


@pytest.mark.parametrize(
    "command", ["tune", "compare", "probe", "journal", "eval", "predict", "demo"]
)
def test_every_option_is_explained_on_an_ordinary_terminal(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.output).splitlines()
    assert max(map(len, lines)) <= 80
    from typer.main import get_command

    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        assert getattr(parameter, "help", None), parameter.name


def test_the_server_s_options_are_the_endpoint_s_fields() -> None:
    from typer.main import get_command

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, missing in (("tune", set()), ("probe", {"base_url"})):
        names = {parameter.name for parameter in commands[command].params}
        assert set(Endpoint.model_fields) - names == missing
