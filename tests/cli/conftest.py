"""Data, a finished run, and streams that are no terminal, for tests of the command line."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

# What these tests share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

LIKE_A_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsets what makes every stream look like a terminal."""
    for name in LIKE_A_TERMINAL:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts for training and test; leave them as they are."""
    from command_line import sentences, write_lines

    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    write_lines(folder / "train.jsonl", sentences(20, rng))
    write_lines(folder / "test.jsonl", sentences(25, rng))
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on them; leave it as it is."""
    from command_line import tune

    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = tune(data, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder
