"""The benchmarks start, and the accuracy table is made, resumed and guarded. No timings here."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blackbox_delta.cli import app

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TEXTS = {
    "good": "a wonderful story with a great {} and a happy end",
    "bad": "a terrible story with a dull {} and a sad end",
}
THINGS = ["team", "player", "market", "study", "city", "film", "actor", "house", "river", "song"]


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "mood"
    folder.mkdir(parents=True)
    for part, things in (("train", THINGS[:5]), ("test", THINGS[5:])):
        lines = [
            json.dumps({"text": text.format(thing), "label": label})
            for thing in things
            for label, text in TEXTS.items()
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder.parent


@pytest.mark.parametrize(
    "script",
    [
        "few_shot.py",
        "optimizers.py",
        "local_throughput.py",
        "delta_quality.py",
        "delta_throughput.py",
        "large_delta.py",
        "remote_throughput.py",
    ],
)
def test_help(script: str) -> None:
    done = call(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--results" in done.stdout


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_few_shot_on_the_toy_model(recipe: str, data: Path, tmp_path: Path) -> None:
    common = ["--model", "fake", "--data", data, "--tasks", "mood", "--shots", 2]
    common += ["--out", tmp_path / "runs", "--results", tmp_path / "results"]
    common += ["--seeds", 13, 21, "--set", f"recipe={recipe}", "dimension=10"]
    common += ["population=4"] if recipe == "search" else []
    first = call("few_shot.py", *common, "--budget", 12)
    assert first.returncode == 0, first.stderr
    with (tmp_path / "results" / "few_shot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    results = {
        seed: json.loads((tmp_path / "runs" / f"mood-{seed}" / "result.json").read_text())
        for seed in (13, 21)
    }
    assert [(row["task"], int(row["seed"])) for row in rows] == [("mood", 13), ("mood", 21)]
    for row in rows:
        result = results[int(row["seed"])]
        assert float(row["tuned"]) == result["test_accuracy"]
        assert float(row["calibrated"]) == result["baseline_accuracy"]
        assert float(row["difference"]) == pytest.approx(
            result["test_accuracy"] - result["baseline_accuracy"]
        )
        assert row["chosen"] == result["chosen"]
        assert float(row["queries"]) == result["queries"]
        assert float(row["queries_per_answer"]) == result["queries_per_answer"]
        assert 0 < float(row["own_percent"]) < 100
        assert float(row["peak_mb"]) > 10
    mean = sum(result["test_accuracy"] for result in results.values()) / 2
    markdown = (tmp_path / "results" / "few_shot.md").read_text(encoding="utf-8")
    assert markdown in first.stdout
    means = next(line for line in markdown.splitlines() if line.startswith("| mood | 2 |"))
    assert means.split(" | ")[4] == f"{mean:.3f}"

    again = call("few_shot.py", *common, "--budget", 12)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 cells are finished already" in again.stdout
    assert (tmp_path / "results" / "few_shot.md").read_text(encoding="utf-8") == markdown

    other = call("few_shot.py", *common, "--budget", 40)
    assert other.returncode == 1
    assert "other settings" in other.stderr
    assert "Traceback" not in other.stderr


def test_deltas_of_two_comparisons_stand_in_one_table(data: Path, tmp_path: Path) -> None:
    """The second says again what the first found on one seed, and more."""
    common = ["--model", "fake", "--data", data / "mood", "--shots", 2]
    for name, method, seeds in (("a", "search-soft-prompt:30", "13"), ("b", "dect", "13,21")):
        options = [*common, "--methods", method, "--seeds", seeds, "--out", tmp_path / name]
        made = CliRunner().invoke(app, ["compare", *map(str, options)])
        assert made.exit_code == 0, made.output

    done = call("delta_quality.py", tmp_path / "a", tmp_path / "b", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    cells = {}
    for name in ("a", "b"):
        with (tmp_path / name / "cells.csv").open(encoding="utf-8") as file:
            cells |= {(line["method"], line["seed"]): line for line in csv.DictReader(file)}
    with (tmp_path / "delta_quality.csv").open(encoding="utf-8") as file:
        merged = {(line["method"], line["seed"]): line for line in csv.DictReader(file)}
    assert set(merged) == set(cells)
    for key, line in merged.items():
        assert all(cells[key][name] == value for name, value in line.items())
    table = (tmp_path / "delta_quality.md").read_text(encoding="utf-8")
    assert table in done.stdout
    searched = cells["search-soft-prompt:30", "13"]
    [row] = [line for line in table.splitlines() if line.startswith("| search-soft-prompt |")]
    accuracy = float(searched["accuracy"])
    assert row.split(" | ")[1:3] == [f"{int(searched['delta_size']):,}", searched["dimension"]]
    assert f"| {accuracy:.3f} ({accuracy:.3f}, –) | – |" in row
    [row] = [line for line in table.splitlines() if line.startswith("| dect |")]
    first, second = (float(cells["dect", seed]["accuracy"]) for seed in ("13", "21"))
    assert row.endswith(f"| – | {(first + second) / 2:.3f} ({first:.3f}, {second:.3f}) |")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("task,method\n", "there are no finished cells"),
        ("task,method\nx,dect\n", "has no column 'accuracy'"),
    ],
)
def test_what_is_no_comparison_is_one_clear_error(
    text: str | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "cells.csv").write_text(text, encoding="utf-8")
    done = call("delta_quality.py", tmp_path, "--results", tmp_path / "results")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_task_is_one_clear_error(data: Path, tmp_path: Path) -> None:
    done = call("few_shot.py", "--model", "fake", "--data", data, "--tasks", "none")
    assert done.returncode == 1
    assert str(data / "none") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.model
def test_a_delta_and_a_composition_race_the_bare_model(smollm2: object, tmp_path: Path) -> None:
    """Without the data: texts of the same lengths are made up."""
    del smollm2  # it is installed, and converted
    smallest = ["--candidates", 1, "--examples", 4, "--repeats", 1, "--alone", 1]
    options = ["--shapes", "sst2", *smallest, "--data", tmp_path, "--results", tmp_path]

    done = call("delta_throughput.py", *options, "--deltas", "deep-prompt", "soft-prompt+lora")

    assert done.returncode == 0, done.stderr
    table = (tmp_path / "delta_throughput.md").read_text(encoding="utf-8")
    assert "\n| deep-prompt | " in table
    assert "\n| soft-prompt+lora | " in table
