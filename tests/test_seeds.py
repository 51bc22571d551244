"""Tuning over seeds: each run against a run of its own, the sums against other arithmetic."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import blackbox_delta.seeds
from blackbox_delta.api import tune
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError, BlackBoxDeltaError, ConfigError, DataError, RunError
from blackbox_delta.report import UNMEASURED, time_free
from blackbox_delta.runs import RESULT_NAME, read_result
from blackbox_delta.seeds import SeedsResult, tune_over_seeds
from blackbox_delta.tasks import Columns, draw_split, load_task
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuned_models import TunedModels
from blackbox_delta.tuner import Observer
from blackbox_delta.types import Json

SUPPORT = str(files("blackbox_delta.data") / "support")
TASK = load_task(SUPPORT)
SMALL: dict[str, Any] = {
    "shots": 2,
    "seed": 7,
    "budget": "6 calls",
    "max_test": 30,
}
SEARCH: dict[str, Any] = {"recipe": "search", "population": 4, "budget": "9 calls"}
SEEDS = [7, 8, 9]
FIRST = draw_split(TASK, 2, 7, 30)


@pytest.fixture(scope="module")
def finished() -> SeedsResult:
    return tune_over_seeds(FakeBackend(), TASK, 3, **SMALL)


def steady(result: Json) -> Json:
    """Without times, those of the runs included."""
    return time_free({**result, "runs": [time_free(run) for run in result["runs"]]})


def test_each_seed_is_a_run_of_its_own_with_the_first_ones_test_part(finished: SeedsResult) -> None:
    assert finished.result["seeds"] == SEEDS
    for seed, model in zip(SEEDS, finished.models, strict=True):
        split = replace(draw_split(TASK, 2, seed), test=FIRST.test, test_seed=FIRST.seed)
        alone = tune(FakeBackend(), split, **{**SMALL, "seed": seed})
        assert time_free(model.result) == time_free(alone.result)
        assert model.result["seed"] == seed
        assert model.result["test_seed"] == FIRST.seed


def test_scores_are_summed_up(finished: SeedsResult) -> None:
    result = finished.result
    for name in ("untuned_accuracy", "baseline_accuracy", "test_accuracy", "test_macro_f1"):
        scores = [model.result[name] for model in finished.models]
        assert [run[name] for run in result["runs"]] == scores
        assert result["mean"][name] == pytest.approx(statistics.mean(scores))
        assert result["deviation"][name] == pytest.approx(statistics.stdev(scores))
    assert (result["test_n"], result["shots"], result["model"]) == (30, 2, "fake")


def test_costs_are_added() -> None:
    backend = FakeBackend()
    prices: dict[str, Any] = {"price_in": 2.0, "price_out": 3.0}
    found = tune_over_seeds(backend, TASK, 2, **SMALL, **prices)
    result, runs = found.result, [model.result for model in found.models]
    assert result["queries"] + result["test_queries"] == backend.queries
    for name in ("calls", "tokens", "test_tokens", "cost_usd", "test_cost_usd", "seconds"):
        assert result[name] == pytest.approx(runs[0][name] + runs[1][name])
    assert result["cost_usd"] == pytest.approx(result["tokens"] * 2 / 1e6)


def test_without_prices_there_is_no_cost(finished: SeedsResult) -> None:
    assert finished.result["cost_usd"] is finished.result["test_cost_usd"] is None


def test_the_verdict_is_over_all_seeds(finished: SeedsResult) -> None:
    result = finished.result
    gains = [run["test_accuracy"] - run["baseline_accuracy"] for run in result["runs"]]
    compared = result["comparison"]
    assert (compared["n"], compared["seeds"]) == (30, 3)
    assert compared["difference"] == pytest.approx(statistics.mean(gains))
    assert (compared["worst"], compared["best"]) == pytest.approx((min(gains), max(gains)))
    assert "on average over 3 seeds" in result["verdict"]
    assert not compared["unsteady"]


def test_what_is_compared_are_the_models_own_answers(finished: SeedsResult) -> None:
    for model in finished.models:
        answers = zip(model.predict(list(FIRST.test)), FIRST.test, strict=True)
        right = "".join(str(int(said == example.label)) for said, example in answers)
        assert model.result["test_right"]["tuned"] == right


def test_one_seed_is_allowed() -> None:
    found = tune_over_seeds(FakeBackend(), TASK, 1, **SMALL)
    alone = tune(FakeBackend(), TASK, **SMALL)
    assert found.result["verdict"] == alone.result["verdict"]
    assert found.result["comparison"] == alone.result["comparison"]
    assert found.result["deviation"]["test_accuracy"] is None


def test_without_a_test_part_nothing_is_claimed() -> None:
    found = tune_over_seeds(FakeBackend(), replace(TASK, test=()), 2, **SMALL)
    assert (found.result["verdict"], found.result["comparison"]) == (UNMEASURED, None)
    assert found.result["mean"]["test_accuracy"] is None


def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[Json], Json]) -> None:
    """Lets every run report something else."""

    def changed(*args: Any, **settings: Any) -> TunedModel:
        model = tune(*args, **settings)
        model.result |= change(model.result)
        return model

    monkeypatch.setattr(blackbox_delta.seeds, "tune", changed)


@pytest.mark.parametrize(
    ("estimates", "seed"), [({7: 0.5, 8: 0.75, 9: 0.7}, 8), ({7: 0.5, 8: 0.5, 9: 0.5}, 7)]
)
def test_the_best_estimate_on_training_data_is_recommended(
    estimates: dict[int, float], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing(monkeypatch, lambda result: {"estimate": estimates[result["seed"]]})
    found = tune_over_seeds(FakeBackend(), TASK, 3, **SMALL)
    assert found.result["recommended"]["seed"] == found.recommended.result["seed"] == seed
    assert found.result["recommended"]["folder"] == f"seed-{seed}"
    assert "training" in found.result["recommended"]["why"]


def test_test_accuracy_recommends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search makes no estimate on its training examples."""
    best_last = {7: 0.1, 8: 0.5, 9: 0.9}
    changing(monkeypatch, lambda result: {"test_accuracy": best_last[result["seed"]]})
    found = tune_over_seeds(FakeBackend(), TASK, 3, **{**SMALL, **SEARCH})
    assert found.recommended is found.models[0]
    assert "first seed" in found.result["recommended"]["why"]
    assert [run["estimate"] for run in found.result["runs"]] == [None] * 3


def test_one_unsteady_run_makes_the_verdict_unsteady(monkeypatch: pytest.MonkeyPatch) -> None:
    changing(
        monkeypatch,
        lambda result: {"comparison": {**result["comparison"], "unsteady": result["seed"] == 8}},
    )
    found = tune_over_seeds(FakeBackend(), TASK, 3, **SMALL)
    assert "changes its answers between calls" in found.result["verdict"]


def test_observers_are_made_when_a_run_begins() -> None:
    told: list[int | str] = []

    def observer_of(seed: int) -> Observer:
        told.append(seed)
        return lambda progress: told.append("step")

    tune_over_seeds(FakeBackend(), TASK, 2, observers=observer_of, **SMALL)
    assert [each for each in told if each != "step"] == [7, 8]
    assert told[0] == 7
    assert told[1] == told[-1] == "step"


# ----------------------------------------------------------------------------- folders


def test_a_folder_keeps_every_run_and_the_sum(finished: SeedsResult, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    found = tune_over_seeds(FakeBackend(), SUPPORT, 3, out=out, **SMALL)
    assert sorted(path.name for path in out.iterdir()) == [
        RESULT_NAME,
        "seed-7",
        "seed-8",
        "seed-9",
    ]
    assert steady(found.result) == steady(finished.result)
    assert json.loads((out / RESULT_NAME).read_text()) == found.result
    for seed, model in zip(SEEDS, found.models, strict=True):
        assert read_result(out / f"seed-{seed}") == model.result
        loaded = TunedModel.load(out / f"seed-{seed}", backend=FakeBackend())
        assert loaded.predict(["my parcel is late"]) == model.predict(["my parcel is late"])


def test_a_broken_run_goes_on(finished: SeedsResult, tmp_path: Path) -> None:
    whole = FakeBackend()
    tune_over_seeds(whole, TASK, 3, **SMALL)
    broken, after = FakeBackend(fail_at=[whole.calls // 2]), FakeBackend()
    with pytest.raises(BackendError):
        tune_over_seeds(broken, TASK, 3, out=tmp_path / "out", **SMALL)
    assert read_result(tmp_path / "out") is None
    found = tune_over_seeds(after, TASK, 3, out=tmp_path / "out", resume=True, **SMALL)
    assert steady(found.result) == steady(finished.result)
    assert 0 < after.queries < whole.queries
    assert broken.queries + after.queries == whole.queries


def test_more_seeds_are_added_on_resuming(finished: SeedsResult, tmp_path: Path) -> None:
    tune_over_seeds(FakeBackend(), TASK, 2, out=tmp_path, **SMALL)
    backend = FakeBackend()
    found = tune_over_seeds(backend, TASK, 3, out=tmp_path, resume=True, **SMALL)
    assert steady(found.result) == steady(finished.result)
    last = found.models[-1].result
    assert backend.queries == last["queries"] + last["test_queries"]


def test_a_shared_cache_saves_what_seeds_have_in_common(tmp_path: Path) -> None:
    backend = FakeBackend()
    cache = tmp_path / "cache"
    found = tune_over_seeds(backend, TASK, 2, out=tmp_path / "out", cache=cache, **SMALL)
    assert backend.queries <= found.result["queries"] + found.result["test_queries"] - 30


# -------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("seeds", "change", "error", "message"),
    [
        (0, {}, ConfigError, "seeds must be at least 1, not 0"),
        (-1, {}, ConfigError, "at least 1"),
        ("3", {}, ConfigError, "a whole number, not '3'"),
        (2.0, {}, ConfigError, "a whole number, not 2.0"),
        (2, {"resume": True}, ConfigError, "resume needs a run folder"),
        (2, {"cache": "cache"}, ConfigError, "cache needs a run folder"),
        (2, {"shots": 100}, DataError, "too few"),
        (2, {"nonsense": 1}, ConfigError, "nonsense"),
        (2, {"budget": "many"}, ConfigError, "budget"),
    ],
)
def test_what_cannot_work_costs_nothing(
    seeds: Any, change: Json, error: type[BlackBoxDeltaError], message: str
) -> None:
    backend = FakeBackend()
    with pytest.raises(error, match=message):
        tune_over_seeds(backend, TASK, seeds, **{**SMALL, **change})
    assert backend.calls == 0


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RunError, match="not empty; add --resume"):
        tune_over_seeds(FakeBackend(), TASK, 2, out=tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_one_seed_is_left_alone(resume: bool, tmp_path: Path) -> None:
    tune(FakeBackend(), TASK, out=tmp_path, **SMALL)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match="holds a run of one seed"):
        tune_over_seeds(FakeBackend(), TASK, 2, out=tmp_path, resume=resume, **SMALL)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunError, match="file"):
        tune_over_seeds(FakeBackend(), TASK, 2, out=path, **SMALL)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    tune_over_seeds(FakeBackend(), TASK, 1, out=tmp_path, **SMALL)
    backend = FakeBackend()
    other = {**SMALL, "budget": "7 calls"}
    with pytest.raises(RunError, match="belongs to another run"):
        tune_over_seeds(backend, TASK, 2, out=tmp_path, resume=True, **other)
    assert backend.calls == 0


def test_other_seeds_do_not_take_the_place_of_those_that_are_there(tmp_path: Path) -> None:
    tune_over_seeds(FakeBackend(), TASK, 2, out=tmp_path, **SMALL)
    before, backend = read_result(tmp_path), FakeBackend()
    for seed, seeds in ((20, 2), (8, 2), (7, 1)):
        with pytest.raises(RunError, match=r"holds seed-[78].* which these seeds leave out"):
            tune_over_seeds(
                backend, TASK, seeds, out=tmp_path, resume=True, **{**SMALL, "seed": seed}
            )
    assert backend.calls == 0
    assert read_result(tmp_path) == before


def test_unlabelled_texts_may_come_once() -> None:
    texts = [f"Where is parcel {n}?" for n in range(8)]
    given = tune_over_seeds(FakeBackend(), TASK, 2, unlabeled=(text for text in texts), **SMALL)
    listed = tune_over_seeds(FakeBackend(), TASK, 2, unlabeled=texts, **SMALL)
    assert steady(given.result) == steady(listed.result)


def test_a_folder_of_several_seeds_is_no_tuned_model(tmp_path: Path) -> None:
    tune_over_seeds(FakeBackend(), TASK, 2, out=tmp_path, **SMALL)
    for load in (TunedModel.load, lambda folder: TunedModels.load({"ann": folder})):
        with pytest.raises(RunError, match="name one of them, such as .*seed-"):
            load(tmp_path)


def test_observers_are_checked_before_anything_is_asked() -> None:
    backend = FakeBackend()
    with pytest.raises(ConfigError, match="observers must be a function, not a int"):
        tune_over_seeds(backend, TASK, 2, observers=5, **SMALL)  # type: ignore[arg-type]


def test_columns_are_named_as_for_one_seed(tmp_path: Path) -> None:
    rows = [{"Text": each.text, "Label": each.label} for each in TASK.train]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unlabelled = tmp_path / "more.jsonl"
    unlabelled.write_text("".join(json.dumps({"Text": f"film {n}"}) + "\n" for n in range(4)))
    columns = Columns(text="Text", label="Label")
    result = tune_over_seeds(
        FakeBackend(), file, 2, columns=columns, unlabeled=unlabelled, **SMALL
    ).result
    assert len(result["seeds"]) == 2
