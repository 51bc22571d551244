"""What a run will cost, and prices that come from a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import result_of
from faulty_server import FaultyServer
from served import ALL, PRICED, TESTED, tune
from typer.testing import Result


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
