"""``blackbox-delta compare`` on the toy model, from outside."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from command_line import failed, run
from comparing import films
from faulty_server import Fault, FaultyServer, healthy
from typer.testing import CliRunner, Result

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli import app
from blackbox_delta.types import ScoreRequest, Scores, Sink

pytestmark = pytest.mark.usefixtures("no_terminal")

QUICK = "untuned,in-context,dect"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data") / "films", random.Random(0)
    folder.mkdir()
    for part, count in (("train", 12), ("test", 15)):
        rows = [
            json.dumps({"text": text, "label": label})
            for text, label in zip(*films(count, rng), strict=True)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def compare(data: Path, out: Path, *more: object) -> Result:
    small = ["--shots", 4, "--seeds", "13,21", "--max-test", 20, "--out", out]
    return run("compare", "--model", "fake", "--data", data, *small, *more)


def cells(out: Path) -> list[dict[str, str]]:
    with (out / "cells.csv").open() as file:
        return list(csv.DictReader(file))


def test_methods_stand_side_by_side(data: Path, tmp_path: Path) -> None:
    done = compare(data, tmp_path, "--methods", QUICK, "--methods", "bbt:2")
    assert done.exit_code == 0, done.output
    found = cells(tmp_path)
    # The baseline is always there.
    names = ["calibrated", *QUICK.split(","), "bbt:2"]
    assert [row["method"] for row in found] == [name for name in names for _ in range(2)]
    assert [row["seed"] for row in found] == ["13", "21"] * 5
    for name in names[:-1]:
        accuracy = [100 * float(row["accuracy"]) for row in found if row["method"] == name]
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert f"{sum(accuracy) / 2:.1f} ±" in line
    assert "Not applied: bbt:2 on films, seed 13; bbt:2 on films, seed 21. Reason: " in done.stdout
    assert "fake, 4 training examples per class, seeds 13, 21" in done.stdout
    for name in ("report.md", "cells.csv", "accuracy.png"):
        assert (tmp_path / name).stat().st_size > 500
        assert str(tmp_path / name) in done.stdout
    assert "10 of 10: films bbt:2 seed 21: not applied" in done.stderr
    assert not done.stderr.count("Traceback")


def test_several_tasks_have_a_mean(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    other.mkdir()
    for part in ("train", "test"):
        (other / f"{part}.jsonl").write_bytes((data / f"{part}.jsonl").read_bytes())
    done = compare(data, tmp_path / "out", "--data", other, "--methods", "untuned")
    assert done.exit_code == 0, done.output
    assert "Scores: mean of 2 tasks" in done.stdout
    assert "Scores: more" in done.stdout


def test_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, asked = FakeBackend.score, []

    def stopping(self: FakeBackend, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        asked.append(request.queries)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return score(self, request, sink)

    monkeypatch.setattr(FakeBackend, "score", stopping)
    stopped = compare(data, tmp_path, "--methods", QUICK)
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines()[-1] == "Stopped; the same command goes on."
    assert not (tmp_path / "cells.csv").exists()
    assert list((tmp_path / "cells").iterdir())
    done = compare(data, tmp_path, "--methods", QUICK)
    assert done.exit_code == 0, done.output
    before = len(asked)
    again = compare(data, tmp_path, "--methods", QUICK)
    assert len(asked) == before
    assert again.stdout == done.stdout


def test_a_server_that_fails_ends_the_comparison(data: Path, tmp_path: Path) -> None:
    with FaultyServer() as server:
        arguments = ["--base-url", server.url, "--shots", 4, "--seeds", "13,21", "--max-test", 20]
        command = ["compare", "--data", data, *arguments, "--methods", QUICK, "--out", tmp_path]

        def start() -> Result:
            return run(*command)

        # It answers the first cell, and nothing afterwards.
        server.plan = lambda *_: Fault.REDIRECT if [*tmp_path.glob("cells/*.json")] else None
        stopped = start()
        assert "redirects to another server" in " ".join(failed(stopped).split())
        assert "Stopped; when that is mended, the same command goes on." in stopped.stderr
        assert "not applied" not in stopped.stderr
        assert not (tmp_path / "cells.csv").exists()
        [finished] = (tmp_path / "cells").iterdir()
        before = finished.read_bytes()
        server.plan = healthy
        done = start()
        assert done.exit_code == 0, done.output
        assert "Not applied" not in done.stdout
        assert len(cells(tmp_path)) == 8
        assert finished.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "magic"], "no method called 'magic'"),
        (["--methods", "untuned:5"], "budget in calls"),
        (["--methods", "lora@"], "cannot read the method"),
        (["--seeds", "13,x"], "cannot read the seeds"),
        (["--seeds", ""], "cannot read the seeds"),
        (["--shots", "40"], "too few different examples"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    options: list[str], said: str, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert said in failed(compare(data, out, *options))
    assert not out.exists()


def test_data_without_a_test_part_is_refused(data: Path, tmp_path: Path) -> None:
    assert "no test part" in failed(compare(data / "train.jsonl", tmp_path / "out"))


def test_the_help_names_every_method() -> None:
    from blackbox_delta.compare.methods import method_names

    done = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    assert all(name in done.output for name in method_names())
