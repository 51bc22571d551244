"""``tune --seeds``: several runs in one folder, judged together."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import failed, result_of, run, spend, tune
from typer.testing import Result

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.tasks import load_task, sample_test
from blackbox_delta.types import Example


@pytest.fixture(scope="module")
def over_seeds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("seeds") / "out"
    done = tune(data, "--seeds", 2, "--max-test", 20, "--out", out)
    assert done.exit_code == 0, done.output
    return out, done


def test_several_seeds_are_judged_together(over_seeds: tuple[Path, Result]) -> None:
    out, done = over_seeds
    report = json.loads((out / "result.json").read_text())
    assert report["seeds"] == [13, 14]
    assert "fake, 4-shot, seeds 13, 14" in done.stdout
    for seed in (13, 14):
        own = result_of(out / f"seed-{seed}")
        scores = [own[f"{key}_accuracy"] for key in ("untuned", "baseline", "test")]
        row = r"\s+".join(f"{score:.3f}" for score in scores)
        assert re.search(rf"seed {seed}\s+{row}\s", done.stdout)
        assert own["test_n"] == 20
    assert re.search(rf"mean\s.*\s{report['mean']['test_accuracy']:.3f}\s", done.stdout)
    assert f"Verdict: {report['verdict']}" in done.stdout
    assert "fake: 6 calls at most for each of 2 seeds, " in done.stderr
    assert "Seed 13, 1 of 2:" in done.stderr
    assert "Seed 14, 2 of 2:" in done.stderr


def test_the_recommended_seed_is_the_one_to_predict_with(over_seeds: tuple[Path, Result]) -> None:
    out, done = over_seeds
    folder = out / json.loads((out / "result.json").read_text())["recommended"]["folder"]
    assert f"Recommended: {folder.name}, " in done.stdout
    assert f"To use it all the same: blackbox-delta predict {folder} FILE" in done.stdout
    assert run("predict", folder, stdin="a great film").exit_code == 0
    message = failed(run("predict", out, stdin="a great film"))
    assert f"several seeds; name one of them, such as {folder}" in message


def test_eval_scores_the_sample_of_all_seeds(
    data: Path, over_seeds: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = over_seeds[0] / "seed-14"
    drawn: list[tuple[Example, ...]] = []
    found = result_of(folder)

    def sample(examples: tuple[Example, ...], seed: int, limit: int | None) -> tuple[Example, ...]:
        drawn.append(sample_test(examples, seed, limit))
        return drawn[-1]

    monkeypatch.setattr("blackbox_delta.tasks.sample_test", sample)
    done = run("eval", folder, "--data", data, "--max-test", 20)
    assert done.exit_code == 0, done.output
    test = load_task(data).test
    assert drawn.pop() == sample_test(test, 13, 20) != sample_test(test, 14, 20)
    assert re.search(rf"accuracy\s+{found['test_accuracy']:.3f}\s", done.stdout)


def test_eval_draws_with_the_own_seed_of_a_run_that_does_not_tell_the_sample_s(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    result = json.loads((run_folder / "result.json").read_text())
    assert result.pop("test_seed") == 13
    (run_folder / "result.json").write_text(json.dumps(result))
    seeds: list[int] = []

    def sample(examples: tuple[Example, ...], seed: int, limit: int | None) -> tuple[Example, ...]:
        seeds.append(seed)
        return sample_test(examples, seed, limit)

    monkeypatch.setattr("blackbox_delta.tasks.sample_test", sample)
    done = run("eval", run_folder, "--data", data, "--max-test", 3)
    assert done.exit_code == 0, done.output
    assert seeds == [13]


def test_seeds_are_resumed_and_may_become_more(
    data: Path, over_seeds: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = over_seeds
    assert "add --resume" in failed(tune(data, "--seeds", 2, "--max-test", 20, "--out", out))
    with monkeypatch.context() as patch:
        patch.setattr(FakeBackend, "score", spend)
        again = tune(data, "--seeds", 2, "--max-test", 20, "--out", out, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[:11] == first.stdout.splitlines()[:11]
    more = tune(data, "--seeds", 3, "--max-test", 20, "--out", out, "--resume")
    assert more.exit_code == 0, more.output
    assert "seeds 13, 14, 15" in more.stdout


def test_a_dry_run_forecasts_every_seed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tune(data, "--seeds", 3, "--dry-run", "--out", out)
    assert done.exit_code == 0, done.output
    assert not out.exists()
    assert "the runs cost at most:" in done.stdout
    rows = dict(re.findall(r"(seed \d+|together) +\d+ – (\d+) ", done.stdout))
    assert list(rows) == ["seed 13", "seed 14", "seed 15", "together"]
    *each, total = map(int, rows.values())
    assert total == sum(each)


def test_several_seeds_keep_nothing_without_a_folder(data: Path) -> None:
    done = tune(data, "--seeds", 2, "--max-test", 8, "--without", "words,demonstrations,search")
    assert done.exit_code == 0, done.output
    assert "Nothing was kept; add --out RUN" in done.stdout


@pytest.mark.parametrize("command", [["journal"], ["export"], ["predict"]])
def test_a_folder_of_several_seeds_is_told_by_every_command(
    command: list[str], over_seeds: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = over_seeds
    rest = [tmp_path / "adapter"] if command == ["export"] else []
    message = " ".join(failed(run(*command, out, *rest, stdin="a film")).split())
    assert "holds runs with several seeds; name one of them, such as" in message
