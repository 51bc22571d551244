"""What is wrong is found before a server is asked what it offers, for that takes queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import failed, run
from faulty_server import FaultyServer
from served import tune


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "{full}"], "is not empty and holds no run"),
        (["--out", "{file}/run"], "is a file; name a folder"),
        (["--out", "{new}", "--cache", "{file}"], "file is not a database"),
        (["--out", "{full}", "--seeds", "2"], "is not empty; add --resume"),
        (["--label-words", "negative=bad"], "no word for: positive"),
        (["--label-words", "negative=bad,positive=bad"], "bad"),
        (["--template", "{text}"], "{label}"),
        (["--head", "foo"], "no head called 'foo'"),
        (["--optimizer", "foo"], "no optimizer 'foo'"),
        (["--delta", "lora"], "a server takes no lora"),
        (["--budget", "foo"], "budget"),
    ],
)
def test_bad_input_costs_nothing(
    options: list[str], message: str, data: Path, toy_server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("not a journal")
    places = {"full": tmp_path / "full", "file": tmp_path / "full" / "file", "new": tmp_path / "n"}
    given: list[Any] = options
    for name, place in places.items():
        given = [option.replace(f"{{{name}}}", str(place)) for option in given]

    said = " ".join(failed(tune(toy_server.url, data, *given)).split())

    assert message in said
    assert not toy_server.requests
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shots", "30"], "30"),
        (["--shots", "2", "--out", "{file}/out"], "cannot be written"),
        (["--methods", "foo"], "foo"),
    ],
)
def test_a_comparison_that_cannot_be_made_costs_nothing(
    options: list[str], message: str, data: Path, toy_server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    given = [option.replace("{file}", str(tmp_path / "file")) for option in options]
    place = ["--base-url", toy_server.url, "--data", data, "--out", tmp_path / "out"]

    said = " ".join(failed(run("compare", *place, *given)).split())

    assert message in said
    assert not toy_server.requests
