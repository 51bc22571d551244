from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from comparing import film_trial, ignore

from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.compare.auto import Auto
from blackbox_delta.compare.bbt import PUBLISHED, Bbt
from blackbox_delta.compare.contract import Measured
from blackbox_delta.compare.search import Search, best_delta
from blackbox_delta.compare.searched import read_curve
from blackbox_delta.errors import BackendError, BudgetError, UnsupportedError
from blackbox_delta.runs import read_result
from blackbox_delta.settings import Settings
from blackbox_delta.tuned_model import TunedModel

#: The published settings, but quick.
SMALL = {"soft_tokens": 4, "dimension": 12, "population": 4}


def bbt(calls: int = 60, **changed: Any) -> Bbt:
    return Bbt(calls, {**SMALL, **changed})


def auto(calls: int = 12) -> Auto:
    return Auto(calls)


def search(calls: int = 60) -> Search:
    return Search("soft-prompt", calls)


def time_free(found: Measured) -> dict[str, Any]:
    known = {**vars(found), "log_proba": found.log_proba.tolist()}
    return {**known, "train_log_proba": found.train_log_proba.tolist(), "seconds": None}


# --------------------------------------------------------------------------- bbt


def test_bbt_is_as_published() -> None:
    settings = Settings.of(Bbt(8000).settings)
    assert settings.soft_tokens == 50
    assert (settings.dimension, settings.population) == (500, 20)
    assert (settings.optimizer, settings.head, settings.objective) == (
        "cma",
        "plain",
        "cross-entropy",
    )
    assert settings.budget == "8000 calls"
    assert set(PUBLISHED) <= set(Settings.model_fields)


def test_bbt_answers_with_the_plain_verbalizer_under_a_soft_prompt(tmp_path: Path) -> None:
    trial = film_trial(tmp_path)
    found = bbt().run(trial, ignore)
    assert 40 < found.calls <= 60
    assert found.queries == found.calls * 8
    assert found.test_queries == 1
    assert found.log_proba.shape == (30, 2)
    assert found.train_log_proba.shape == (8, 2)
    np.testing.assert_allclose(np.exp(found.log_proba).sum(axis=1), 1)


def test_the_slot_stands_before_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Artifact] = []
    monkeypatch.setattr(
        "blackbox_delta.compare.search.TunedModel",
        lambda artifact, backend: kept.append(artifact) or TunedModel(artifact, backend),
    )
    bbt(20).run(film_trial(tmp_path), ignore)
    [artifact] = kept
    [member] = artifact.members
    assert member.reader.template.source == "{soft} Text: {text}\nIn one word, it is {label}"
    assert member.head.kind == "plain"
    assert member.delta is not None


def test_the_curve_falls_with_the_calls(tmp_path: Path) -> None:
    found = bbt().run(film_trial(tmp_path), ignore)
    calls, losses = zip(*((point.calls, point.loss) for point in found.curve), strict=True)
    assert len(calls) == found.details["generations"]
    assert list(calls) == sorted(calls)
    assert list(losses) == sorted(losses, reverse=True)


def test_without_a_run_there_is_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path / "history.jsonl") == ()


def test_the_best_soft_prompt_answers_even_if_the_untuned_model_is_better() -> None:
    def option(name: str, loss: float) -> Any:
        return SimpleNamespace(name=name, dev_loss=loss)

    options = [option("calibrated", 0.1), option("delta", 0.9), option("delta", 0.7)]
    outcome: Any = SimpleNamespace(options=options)
    assert best_delta(outcome, Budget.parse("5 calls")) is options[2]
    outcome = SimpleNamespace(options=options[:1])
    with pytest.raises(BudgetError, match="5 calls"):
        best_delta(outcome, Budget.parse("5 calls"))


def test_bbt_refuses_models_without_soft_prompts_and_tiny_budgets(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        bbt().run(film_trial(tmp_path / "a", FakeBackend(accepts=())), ignore)
    with pytest.raises(BudgetError):
        bbt(3).run(film_trial(tmp_path / "b"), ignore)


# ------------------------------------------------------------------------- search


def test_a_search_is_the_recipe_s_with_its_defaults(tmp_path: Path) -> None:
    method = Search("soft-prompt", 300)
    assert method.settings == Settings(recipe="search").model_dump()
    trial = film_trial(tmp_path)
    found = search().run(trial, ignore)
    expected = tune(
        FakeBackend(), trial.split, recipe="search", seed=13, budget="60 calls", shots=4
    )
    for name in ("calls", "queries", "tokens"):
        assert getattr(found, name) == expected.result[name]
    assert found.details["delta"] == expected.result["delta"]


# -------------------------------------------------------------------------- auto


def test_auto_is_what_tune_finds(tmp_path: Path) -> None:
    trial = film_trial(tmp_path)
    method = auto()
    found = method.run(trial, ignore)
    expected = tune(FakeBackend(), trial.split, seed=13, budget="12 calls")
    assert found.details["recipe"] == expected.result["recipe"] == "auto"
    assert found.test_queries == expected.result["queries_per_answer"] > 1
    np.testing.assert_array_equal(found.log_proba, expected.log_proba(trial.split.test))
    np.testing.assert_array_equal(found.train_log_proba, expected.log_proba(trial.split.train))
    for name in ("calls", "queries", "tokens"):
        assert getattr(found, name) == expected.result[name]


def test_auto_s_test_examples_are_no_part_of_its_run(tmp_path: Path) -> None:
    trial = film_trial(tmp_path)
    auto().run(trial, ignore)
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result["test_n"] == 0


def test_auto_asks_for_the_recipe_and_depends_on_the_defaults() -> None:
    settings = Auto(16).settings
    assert settings["recipe"] == "auto"
    assert settings["budget"] == "16 calls"
    assert settings["head"] == Settings().head


def test_what_is_left_out_of_auto_is_not_asked(tmp_path: Path) -> None:
    alone = Auto(12, ("words", "demonstrations", "search", "rewritings"))
    found = alone.run(film_trial(tmp_path), ignore)
    assert found.test_queries == 1
    assert found.curve[-1].calls == found.calls
    assert len(found.curve) == 2, "the first view and its anchors"


@pytest.mark.parametrize("method", [bbt(), auto(), search()], ids=["bbt", "auto", "search"])
def test_an_interrupted_search_goes_on_where_it_was(
    method: Bbt | Auto | Search, tmp_path: Path
) -> None:
    whole = FakeBackend()
    expected = method.run(film_trial(tmp_path / "whole", whole), ignore)
    failing = FakeBackend(fail_at=[5])
    with pytest.raises(BackendError):
        method.run(film_trial(tmp_path / "torn", failing), ignore)
    rest = FakeBackend()
    found = method.run(film_trial(tmp_path / "torn", rest), ignore)
    assert time_free(found) == time_free(expected)
    assert rest.queries == whole.queries - failing.queries


@pytest.mark.parametrize("method", [bbt(), auto(), search()], ids=["bbt", "auto", "search"])
def test_steps_grow_until_the_test(method: Bbt | Auto | Search, tmp_path: Path) -> None:
    steps: list[tuple[float, str]] = []
    method.run(film_trial(tmp_path), lambda share, note: steps.append((share, note)))
    accuracy = "held-out accuracy" if isinstance(method, Auto) else "dev accuracy"
    searching = [share for share, note in steps if "calls" in note and accuracy in note]
    assert searching
    assert searching == sorted(searching)
    assert steps[-1] == (1.0, "test: 30 of 30 examples")
