"""What cannot work with a server is said before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import failed, run
from faulty_server import FaultyServer
from served import SMALL, tune


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
    assert "a local model; leave --key-env (in Python" in failed(run(*command, "--key-env", "KEY"))
