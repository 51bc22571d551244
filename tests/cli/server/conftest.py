"""Data, a server and a finished run on it, for tests of the command line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import write_lines
from faulty_server import FaultyServer
from served import PRICED, sentences, tune
from typer.testing import Result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for part, count in (("train", 8), ("test", 10)):
        write_lines(folder / f"{part}.jsonl", sentences(count, rng))
    return folder


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
