"""Data, a finished run, and streams that are no terminal, for tests of the command line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from command_line import sentences, tune, write_lines


@pytest.fixture(autouse=True)
def plain_streams(no_terminal: None) -> None:
    """For every test here."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts for training and test; leave them as they are."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    write_lines(folder / "train.jsonl", sentences(20, rng))
    write_lines(folder / "test.jsonl", sentences(25, rng))
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on them; leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = tune(data, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder
