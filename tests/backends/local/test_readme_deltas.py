"""Every line of the README's table of deltas runs, on a tiny model instead of the real one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blackbox_delta.cli import app
from blackbox_delta.demo import DATA
from blackbox_delta.runs import read_result
from blackbox_delta.settings import DELTA_KINDS

README = Path(__file__).parents[3] / "README.md"
LINES = re.findall(r"^\| `(--delta [^`]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
#: Prefixes stand elsewhere in a decoder that reads an encoder's output.
CASES = [("llama", line) for line in LINES] + [("t5", line) for line in LINES if "prefix" in line]
SMALL = "--recipe search --budget 30 --shots 2 --population 4 --dimension 4 --max-test 5"


@pytest.fixture(scope="module")
def folder(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models as files."""

    @cache
    def saved(model: str) -> Path:
        folder = tmp_path_factory.mktemp(model)
        tiny(model).save(folder)
        return folder

    return saved


def test_the_table_has_every_kind() -> None:
    alone = {line.split()[1] for line in LINES if line.count("--delta") == 1 and "+" not in line}
    assert alone == set(DELTA_KINDS)


@pytest.mark.parametrize(("model", "line"), CASES)
def test_the_line_runs(
    model: str, line: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ["tune", "--model", folder(model), "--data", DATA, "--out", tmp_path / "run"]
    command = [*map(str, words), *SMALL.split(), *shlex.split(line)]

    done = CliRunner().invoke(app, command)

    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "run")
    assert result is not None
    kinds = "+".join(re.findall(r"--delta (\S+)", line))
    assert result["delta"]["kind"] == kinds
