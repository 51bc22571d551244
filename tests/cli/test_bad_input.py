"""What cannot be is one clear error, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import failed, run, tune, write_lines

SEARCH: list[object] = ["--recipe", "search", "--budget", 64]
BAD_OPTIONS: dict[str, tuple[list[object], str]] = {
    "no such data": (["--data", "nowhere"], "no such file or folder: nowhere"),
    "no such model": (["--model", "./nowhere"], "no such model folder"),
    "no such column": (["--text-column", "words"], "no column 'words'"),
    "too few examples": (["--shots", 99], "largest --shots that works is 20"),
    "empty label word": (["--label-words", "positive=,negative=bad"], "'positive' is empty"),
    "same label words": (["--label-words", "positive=x,negative=x"], "same word 'x'"),
    "unknown label": (["--label-words", "good=x,negative=y"], "no such label as: good"),
    "garbled label words": (["--label-words", "great"], "write LABEL=WORD"),
    "no text field": (["--template", "{soft} It was {label}"], "{text}"),
    "no label field": (["--template", "{text}{soft}"], "{label}"),
    "unknown field": (["--template", "{text} {mood} {label}"], "{mood}"),
    "small budget": ([*SEARCH, "--budget", 10], "budget of 10 calls is too small"),
    "small budget of auto": (["--budget", "7 queries"], "budget of 7 queries is too small"),
    "garbled budget": (["--budget", "much"], "budget 'much' cannot be read"),
    "unknown optimizer": ([*SEARCH, "--optimizer", "adam"], "'adam'"),
    "unknown optimizer of auto": (["--optimizer", "adam"], "'adam'"),
    "unknown head": (["--head", "neck"], "'neck'"),
    "unknown objective": ([*SEARCH, "--objective", "fun"], "'fun'"),
    "unknown recipe": (
        ["--recipe", "magic"],
        "recipe = 'magic': input should be 'auto' or 'search",
    ),
    "unknown part": (["--without", "luck"], "there is no part 'luck'"),
    "no such texts": (["--unlabeled", "nowhere.jsonl"], "nowhere.jsonl"),
    "no queries": (["--max-queries-per-example", 0], "max_queries_per_example = 0"),
    "too few examples for all seeds": (["--seeds", 3, "--shots", 99], "largest --shots"),
    "unknown subspace": (["--subspace", "cauchy"], "'cauchy'"),
    "no shots": (["--shots", 0], "shots = 0"),
    "resume without out": (["--resume"], "add --out RUN"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_one_clear_error(case: str, data: Path) -> None:
    options, expected = BAD_OPTIONS[case]
    assert expected in failed(tune(data, *options))


@pytest.mark.parametrize("case", sorted(set(BAD_OPTIONS) - {"resume without out"}))
def test_bad_options_leave_no_folder_behind(case: str, data: Path, tmp_path: Path) -> None:
    failed(tune(data, "--out", tmp_path / "run", *BAD_OPTIONS[case][0]))
    assert not (tmp_path / "run").exists()


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"good {n}", "label": "positive"} for n in range(20)]
    message = failed(tune(write_lines(tmp_path / "one.jsonl", rows)))
    assert "at least two classes" in message


def test_a_folder_that_holds_a_run_is_not_overwritten(data: Path, finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert "add --resume" in failed(tune(data, "--out", finished))
    message = failed(tune(data, "--out", finished, "--resume", "--seed", 14))
    assert "another run" in message
    assert "seed" in message
    assert "run of one seed" in failed(tune(data, "--out", finished, "--resume", "--seeds", 2))
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("artifact.json", cut),
        ("artifact.safetensors", flip),
        ("artifact.safetensors", Path.unlink),
        ("result.json", cut),
    ],
)
def test_a_damaged_run_is_refused(
    name: str, damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    for part in ("artifact.json", "artifact.safetensors", "result.json"):
        (tmp_path / part).write_bytes((finished / part).read_bytes())
    assert run("predict", tmp_path, stdin="a film").exit_code == 0
    damage(tmp_path / name)
    assert name in failed(run("predict", tmp_path, stdin="a film"))
