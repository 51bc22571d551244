from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError
from blackbox_delta.heads import make_head
from blackbox_delta.prices import Prices
from blackbox_delta.problem import build_problem
from blackbox_delta.report import UNMEASURED, build_result, score_test, time_free
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import draw_split, load_task
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Outcome, Tuner
from blackbox_delta.types import Example, FittedHead, Usage, Vector

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=4, seed=0, max_test=60)
TRUTH = [example.label for example in SPLIT.test]
SMALL: dict[str, Any] = {
    "dimension": 20,
    "soft_tokens": 3,
    "population": 4,
    "budget": "40 calls",
    "shots": 4,
}
PROMISED = [
    "model",
    "seed",
    "shots",
    "baseline_accuracy",
    "dev_accuracy",
    "test_accuracy",
    "test_n",
    "calls",
    "queries",
    "tokens",
    "seconds",
    "optimizer_seconds",
    "backend_seconds",
    "verdict",
]
COSTS = (
    "queries",
    "tokens",
    "output_tokens",
    "lost_queries",
    "bounded_labels",
    "unparsed_replies",
    "cost_usd",
)


def unheard(_tested: int, _to_test: int) -> None:
    """Nobody watches."""


def test_the_test_part_is_asked_in_pieces_that_change_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_test(finished.backend, finished.outcome, unheard)
    monkeypatch.setattr("blackbox_delta.report.TEST_PIECE", 25)
    told: list[tuple[int, int]] = []
    pieces = score_test(finished.backend, finished.outcome, lambda *step: told.append(step))
    assert whole is not None
    assert pieces is not None
    assert told[:3] == [(25, told[-1][1]), (50, told[-1][1]), (60, told[-1][1])]
    assert told[-1][0] == told[-1][1] == pieces.usage.queries
    assert (pieces.untuned, pieces.calibrated, pieces.tuned, pieces.verdict) == (
        whole.untuned,
        whole.calibrated,
        whole.tuned,
        whole.verdict,
    )


class Finished:
    """A finished search, and every option as a model of its own."""

    def __init__(self, **given: Any) -> None:
        self.backend = FakeBackend()
        self.settings = Settings.of({**SMALL, **given})
        self.budget = Budget.parse(self.settings.budget)
        problem = build_problem(self.backend, SPLIT, self.settings)
        tuner = Tuner(self.backend, problem, self.settings, self.budget)
        self.outcome = tuner.run(self.backend)
        self.problem = self.outcome.problem

    def choosing(self, index: int) -> Outcome:
        """The outcome, had that option been chosen."""
        return replace(self.outcome, chosen=self.outcome.options[index])

    def predict(self, z: Vector | None, head: FittedHead, part: tuple[Example, ...]) -> list[str]:
        """By way of a saved model, which knows nothing of the report."""
        artifact = Artifact.of(self.backend, self.problem.reader, head, self.problem.frame, z)
        return TunedModel(artifact, self.backend).predict(list(part))


@pytest.fixture(scope="module", params=[None, "random"])
def finished(request: pytest.FixtureRequest) -> Finished:
    return Finished(soft_init=request.param)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_accuracies_are_those_of_the_saved_models(finished: Finished, index: int) -> None:
    outcome = finished.choosing(index)
    test = score_test(finished.backend, outcome, unheard)
    result = build_result(finished.backend, finished.settings, finished.budget, outcome, test)
    baseline, chosen = outcome.options[0], outcome.chosen
    evidence = finished.backend.score(
        finished.problem.request(finished.problem.train.prompts, None, 0)
    ).candidate(0)
    plain = make_head("plain").fit(evidence, finished.problem.train.labels, None)
    ways = {
        "untuned": (finished.problem.start, plain),
        "baseline": (baseline.z, baseline.head),
        "test": (chosen.z, chosen.head),
    }
    for name, (z, head) in ways.items():
        predicted = finished.predict(z, head, SPLIT.test)
        assert result[f"{name}_accuracy"] == pytest.approx(accuracy_score(TRUTH, predicted))
        assert result[f"{name}_macro_f1"] == pytest.approx(
            f1_score(TRUTH, predicted, average="macro", zero_division=0)
        )
    dev = [example.label for example in SPLIT.dev]
    for key, option in (("baseline_dev_accuracy", baseline), ("dev_accuracy", chosen)):
        predicted = finished.predict(option.z, option.head, SPLIT.dev)
        assert result[key] == pytest.approx(accuracy_score(dev, predicted))
    assert result["chosen"] == chosen.name
    assert result["head"] == chosen.head.kind
    assert result["start"] == finished.problem.words


@pytest.mark.parametrize("index", [0, -1])
def test_the_verdict_compares_the_chosen_with_the_baseline(finished: Finished, index: int) -> None:
    outcome = finished.choosing(index)
    test = score_test(finished.backend, outcome, unheard)
    assert test is not None
    options = outcome.options[0], outcome.chosen
    baseline, tuned = (
        np.array(finished.predict(option.z, option.head, SPLIT.test)) == np.array(TRUTH)
        for option in options
    )
    assert test.verdict.difference == pytest.approx(tuned.mean() - baseline.mean())
    assert test.verdict.n == 60
    if index == 0:
        assert test.verdict.p_value == 1.0
        assert test.verdict.kind == "no reliable difference"


def test_the_test_part_is_scored_once_for_each_delta(finished: Finished) -> None:
    for index, times in ((0, 1), (1, 1), (-1, 2)):
        before = finished.backend.queries
        told: list[tuple[int, int]] = []
        outcome = finished.choosing(index)
        test = score_test(finished.backend, outcome, lambda *step, told=told: told.append(step))
        assert test is not None
        assert told == [(60 * turn, 60 * times) for turn in range(1, times + 1)]
        assert test.usage.queries == times * 60 == finished.backend.queries - before


@pytest.mark.parametrize("fault", [{"fail_at": [1]}, {"nan_at": [1]}])
def test_a_failed_reply_makes_no_report(finished: Finished, fault: dict[str, list[int]]) -> None:
    with pytest.raises(BackendError):
        score_test(FakeBackend(**fault), finished.outcome, unheard)


def test_a_result_has_what_was_promised() -> None:
    result = tune(FakeBackend(), SPLIT, **SMALL).result
    assert not set(PROMISED) - result.keys()
    assert result["model"] == "fake"
    assert result["shots"] == 4
    assert result["seed"] == 0
    assert (result["train_n"], result["dev_n"], result["test_n"]) == (20, 20, 60)
    assert result["labels"] == list(TASK.labels)
    assert result["budget"] == "40 calls"
    assert result["verdict"]
    assert result["comparison"]["n"] == 60
    assert all(type(result[name]) is float for name in result if name.endswith("seconds"))
    assert result["seconds"] >= result["backend_seconds"] + result["optimizer_seconds"]


def test_test_queries_stand_beside_the_budget() -> None:
    backend = FakeBackend()
    result = tune(backend, SPLIT, **SMALL).result
    assert result["calls"] <= 40
    assert result["test_queries"] in (60, 120)
    assert backend.queries == result["queries"] + result["test_queries"]


def test_costs_stand_apart_for_search_and_test(finished: Finished) -> None:
    prices = Prices(3.0, 7.0)
    budget = Budget(40, "calls", prices)
    budget.charge(Usage(30, 900, output_tokens=60, lost=3, bounded=4, unparsed=5), 3)
    test = score_test(finished.backend, finished.outcome, unheard)
    assert test is not None
    usage = Usage(60, 1800, output_tokens=120, lost=7, bounded=8, unparsed=9)
    test = replace(test, usage=usage)
    result = build_result(finished.backend, finished.settings, budget, finished.outcome, test)
    assert {name: result[name] for name in COSTS} == {
        "queries": 30,
        "tokens": 900,
        "output_tokens": 60,
        "lost_queries": 3,
        "bounded_labels": 4,
        "unparsed_replies": 5,
        "cost_usd": pytest.approx((900 * 3 + 60 * 7) / 1e6),
    }
    assert {name: result[f"test_{name}"] for name in COSTS} == {
        "queries": 60,
        "tokens": 1800,
        "output_tokens": 120,
        "lost_queries": 7,
        "bounded_labels": 8,
        "unparsed_replies": 9,
        "cost_usd": pytest.approx((1800 * 3 + 120 * 7) / 1e6),
    }


def test_without_prices_there_is_no_cost(finished: Finished) -> None:
    args = (finished.backend, finished.settings, finished.budget, finished.outcome)
    result = build_result(*args, score_test(finished.backend, finished.outcome, unheard))
    assert result["cost_usd"] is result["test_cost_usd"] is None


def test_without_a_test_part_nothing_is_claimed() -> None:
    result = tune(FakeBackend(), replace(SPLIT, test=()), **SMALL).result
    assert result["verdict"] == UNMEASURED
    assert "not measured" in UNMEASURED
    assert result["test_n"] == result["test_queries"] == result["test_tokens"] == 0
    for name in ("test_accuracy", "baseline_accuracy", "untuned_accuracy", "comparison"):
        assert result[name] is None
    assert 0 <= result["baseline_dev_accuracy"] <= 1
    assert not set(PROMISED) - result.keys()


def test_times_alone_are_left_out() -> None:
    result = {"seconds": 1.0, "head_seconds": 2.0, "calls": 3, "secondary": 4}
    assert time_free(result) == {"calls": 3, "secondary": 4}
