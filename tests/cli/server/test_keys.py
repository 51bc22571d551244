"""A key from the environment, from probe to predict."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import failed, run
from faulty_server import FaultyServer
from served import SMALL

KEY = "sk-toy-5f0e1d2c3b4a"


def test_a_key_opens_the_server_and_stays_out_of_everything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    folder = tmp_path / "run"
    with FaultyServer(key=KEY) as locked:
        options = ["tune", "--base-url", locked.url, "--data", data, *SMALL, "--out", folder]
        done = run("--verbose", *options, "--key-env", "TOY_KEY")
        assert done.exit_code == 0, done.output
        [line] = [line for line in done.stdout.splitlines() if ": blackbox-delta predict " in line]
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
