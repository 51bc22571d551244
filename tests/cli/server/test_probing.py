"""Probing from the command line: what is found, and what to run next."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from command_line import failed, run
from faulty_server import FaultyServer
from served import SMALL, asked


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
