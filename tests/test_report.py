from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import Listening
from sklearn.metrics import accuracy_score, f1_score

from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError
from blackbox_delta.heads import make_head
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.members import Found, Member
from blackbox_delta.prices import Prices
from blackbox_delta.problem import build_problem
from blackbox_delta.report import (
    ASKED_AGAIN,
    STEADY,
    UNMEASURED,
    HeldOutScores,
    build_result,
    score_test,
    time_free,
)
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import draw_split, load_task
from blackbox_delta.tasks.verdicts import UNSTEADY
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Outcome, Tuner
from blackbox_delta.types import Backend, Example, Json, ScoreRequest, Scores, Sink, Usage

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=4, seed=0, max_test=60)
TRUTH = [example.label for example in SPLIT.test]
SEARCHED = {"dimension": 20, "soft_tokens": 3, "population": 4}
SMALL: dict[str, Any] = {"recipe": "search", **SEARCHED, "budget": "40 calls", "shots": 4}
UNSEARCHED = {**dict.fromkeys(SEARCHED), "template": "{text} It is {label}", "budget": "2 calls"}
AUTO: dict[str, Any] = {"budget": "6 calls", "shots": 4}
PROMISED = [
    "model",
    "recipe",
    "seed",
    "shots",
    "train_n",
    "known_in_test",
    "test_seed",
    "baseline_accuracy",
    "test_accuracy",
    "test_n",
    "queries_per_answer",
    "test_right",
    "calls",
    "queries",
    "tokens",
    "seconds",
    "optimizer_seconds",
    "backend_seconds",
    "verdict",
]
#: What each recipe reports besides.
OWN = {
    "search": ["chosen", "head", "start", "dev_accuracy", "baseline_dev_accuracy", "dev_n"],
    "auto": ["chosen", "head", "start", "estimate", "views", "parts", "steps"],
}
COSTS = (
    "queries",
    "tokens",
    "output_tokens",
    "lost_queries",
    "bounded_labels",
    "unparsed_replies",
    "cost_usd",
)


def unheard(_step: tuple[int, int]) -> None:
    """Nobody watches."""


def scored(
    backend: Backend, found: Found, told: Callable[[tuple[int, int]], None] = unheard
) -> HeldOutScores:
    """The test part's scores."""
    test = score_test(backend, found, SPLIT.test, lambda *step: told(step))
    assert test is not None
    return test


def test_the_test_part_is_asked_in_pieces_that_change_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(finished.backend, finished.outcome.found)
    monkeypatch.setattr("blackbox_delta.report.TEST_PIECE", 25)
    told: list[tuple[int, int]] = []
    pieces = scored(finished.backend, finished.outcome.found, told.append)
    ways = len({member.source for member in finished.everyone})
    # The ways of asking take turns on a piece, before the next one is asked.
    sizes = np.repeat([25, 25, 10], ways)
    assert told == [(int(done), 60 * ways) for done in np.cumsum(sizes)]
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

    @property
    def everyone(self) -> tuple[Member, ...]:
        """All that are asked about the test part."""
        found = self.outcome.found
        return (found.baseline, *found.members)

    def choosing(self, index: int) -> Outcome:
        """The outcome, had that option been chosen."""
        return replace(self.outcome, chosen=self.outcome.options[index])

    def predict(self, part: tuple[Example, ...], *members: Member) -> list[str]:
        """By way of a saved model, which knows nothing of the report."""
        artifact = Artifact.of(self.backend, members)
        return TunedModel(artifact, self.backend).predict(list(part))


@pytest.fixture(scope="module", params=[None, "random"])
def finished(request: pytest.FixtureRequest) -> Finished:
    return Finished(soft_init=request.param)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_accuracies_are_those_of_the_saved_models(finished: Finished, index: int) -> None:
    outcome = finished.choosing(index)
    found = outcome.found
    test = scored(finished.backend, found)
    result = build_result(finished.backend, finished.settings, finished.budget, found, test)
    chosen = outcome.chosen
    baseline, [tuned] = found.baseline, found.members
    evidence = finished.backend.score(
        finished.problem.request(finished.problem.train.prompts, None, 0)
    ).candidate(0)
    plain = make_head("plain").fit(evidence, finished.problem.train.labels, None)
    untuned = replace(baseline, z=finished.problem.start, head=plain)
    for name, member in (("untuned", untuned), ("baseline", baseline), ("test", tuned)):
        predicted = finished.predict(SPLIT.test, member)
        assert result[f"{name}_accuracy"] == pytest.approx(accuracy_score(TRUTH, predicted))
        assert result[f"{name}_macro_f1"] == pytest.approx(
            f1_score(TRUTH, predicted, average="macro", zero_division=0)
        )
    dev = [example.label for example in SPLIT.dev]
    for key, member in (("baseline_dev_accuracy", baseline), ("dev_accuracy", tuned)):
        predicted = finished.predict(SPLIT.dev, member)
        assert result[key] == pytest.approx(accuracy_score(dev, predicted))
    assert result["chosen"] == chosen.name
    assert result["head"] == chosen.head.kind
    assert result["start"] == finished.problem.words


@pytest.mark.parametrize("index", [0, -1])
def test_the_verdict_compares_the_chosen_with_the_baseline(finished: Finished, index: int) -> None:
    found = finished.choosing(index).found
    test = scored(finished.backend, found)
    baseline, tuned = (
        np.array(finished.predict(SPLIT.test, member)) == np.array(TRUTH)
        for member in (found.baseline, *found.members)
    )
    assert test.verdict.difference == pytest.approx(tuned.mean() - baseline.mean())
    assert test.verdict.n == 60
    for who, right in (("baseline", baseline), ("tuned", tuned)):
        assert [int(digit) for digit in test.right[who]] == right.astype(int).tolist()
    if index == 0:
        assert test.verdict.p_value == 1.0
        assert test.verdict.kind == "no reliable difference"


def test_the_test_part_is_scored_once_for_each_delta(finished: Finished) -> None:
    for index, times in ((0, 1), (1, 1), (-1, 2)):
        before = finished.backend.queries
        told: list[tuple[int, int]] = []
        test = scored(finished.backend, finished.choosing(index).found, told.append)
        assert told == [(60 * turn, 60 * times) for turn in range(1, times + 1)]
        assert test.usage.queries == times * 60 == finished.backend.queries - before


@pytest.mark.parametrize("fault", [{"fail_at": [1]}, {"nan_at": [1]}])
def test_a_failed_reply_makes_no_report(finished: Finished, fault: dict[str, list[int]]) -> None:
    with pytest.raises(BackendError):
        scored(FakeBackend(**fault), finished.outcome.found)


def test_a_search_s_outcome_in_the_words_that_recipes_share(finished: Finished) -> None:
    outcome = finished.choosing(-1)
    found = outcome.found
    [member] = found.members
    assert member.name == outcome.chosen.name == found.details["chosen"] == "delta"
    assert member.head is outcome.chosen.head
    assert member.reader == found.baseline.reader == finished.problem.reader
    assert (found.sharpness, member.weight) == (1.0, 1.0)
    delta = finished.problem.delta(outcome.chosen.z)
    assert member.delta is not None
    assert delta is not None
    assert member.delta.digest(0) == delta.digest(0)
    assert found.baseline.head is outcome.options[0].head
    assert found.details["generations"] == outcome.generations
    assert found.details["dev_n"] == len(SPLIT.dev)
    assert found.optimizer_seconds == outcome.seconds.optimizer > 0
    assert found.head_seconds == outcome.seconds.head > 0
    # The untuned model is what the search began from: words, or none at all.
    untuned = finished.choosing(0).found
    assert untuned.members[0].source == untuned.baseline.source
    assert (untuned.baseline.delta is None) == (finished.problem.words is None)


# ------------------------------------------------------------------ several members


@pytest.fixture(scope="module")
def crowd() -> Found:
    """Two ways of asking, one of them behind two heads, besides the baseline's own."""
    finished, other = Finished(), Finished(**UNSEARCHED)
    found = finished.outcome.found
    delta = finished.choosing(-1).found.members[0]
    twin = replace(delta, name="twin", head=found.baseline.head, weight=0.5)
    free = replace(other.outcome.found.members[0], name="words", weight=0.3)
    return replace(found, members=(delta, twin, free), sharpness=1.7)


def test_members_that_ask_alike_share_replies(crowd: Found) -> None:
    backend = FakeBackend()
    told: list[tuple[int, int]] = []
    test = scored(backend, crowd, told.append)
    assert told == [(60, 180), (120, 180), (180, 180)]
    assert test.usage.queries == backend.queries == 180
    settings = Settings.of(SMALL)
    result = build_result(backend, settings, Budget.parse("6 calls"), crowd, test)
    assert result["queries_per_answer"] == 2
    assert result["test_right"] == test.right
    assert result["test_queries"] == 180
    assert result["recipe"] == "search"


def test_what_several_members_score_is_what_the_saved_model_answers(crowd: Found) -> None:
    backend = FakeBackend()
    test = scored(backend, crowd)
    saved = TunedModel(Artifact.of(backend, crowd.members, crowd.sharpness), backend)
    assert test.tuned == saved.evaluate(SPLIT.test)
    right = np.array(saved.predict(list(SPLIT.test))) == np.array(TRUTH)
    assert test.right["tuned"] == "".join(map(str, right.astype(int)))
    baseline = TunedModel(Artifact.of(backend, [crowd.baseline]), backend)
    assert test.calibrated == baseline.evaluate(SPLIT.test)


# ------------------------------------------------------------------ unsteady servers


class Server(Listening):
    """The toy model behind an address, whose answers move by some nats when it is asked again."""

    def __init__(self, moves: float, address: Json | None = None) -> None:
        super().__init__()
        self.moves = moves
        self.where: Json = {"base_url": "http://127.0.0.1:1/v1"} if address is None else address

    @property
    def address(self) -> Json:
        return self.where

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        asked = {prompt for earlier in self.requests for prompt in earlier.prompts}
        known = [number for number, prompt in enumerate(request.prompts) if prompt in asked]
        reply = super().score(request, sink)
        reply.label_logprobs[:, known[-1:], 0] -= self.moves
        return reply


@pytest.fixture(scope="module")
def untuned() -> Found:
    """The baseline as the only member: one way of asking, so nothing is asked twice by itself."""
    return Finished(**UNSEARCHED).choosing(0).found


@pytest.mark.parametrize(("moves", "unsteady"), [(0.0, False), (0.5, False), (1.5, True)])
def test_a_server_that_changes_its_answers_is_named_in_the_verdict(
    moves: float, unsteady: bool, untuned: Found
) -> None:
    """One answer of the few that moves by more than a batch in half precision does is enough."""
    server = Server(moves * STEADY)
    test = scored(server, untuned)
    assert test.verdict.unsteady == unsteady
    assert (UNSTEADY in test.verdict.sentence) == unsteady
    result = build_result(server, Settings.of(SMALL), Budget.parse("2 calls"), untuned, test)
    assert result["verdict"] == test.verdict.sentence
    assert result["comparison"]["unsteady"] == unsteady
    # Only what was asked first counts, which a steady server answers alike.
    assert test.tuned == scored(FakeBackend(), untuned).tuned


def test_few_are_asked_again_and_as_a_repetition(untuned: Found) -> None:
    server = Server(0.0)
    test = scored(server, untuned)
    first, again = server.requests
    assert (first.repeat, again.repeat) == (0, 1)
    assert again.prompts == first.prompts[:ASKED_AGAIN]
    assert (again.choices, again.delta, again.purpose) == (first.choices, first.delta, "test")
    assert test.usage.queries == server.queries == 60 + ASKED_AGAIN


def test_a_model_on_this_machine_is_asked_once(untuned: Found) -> None:
    here = Server(9.0, address={})
    assert not scored(here, untuned).verdict.unsteady
    assert here.queries == 60


def test_a_journal_does_not_hide_that_a_server_is_unsteady(untuned: Found, tmp_path: Path) -> None:
    server = Server(9.0)
    with Journal.open(tmp_path / "journal.sqlite", create=True) as journal:
        verdicts = [scored(JournaledBackend(server, journal), untuned).verdict for _ in range(2)]
    assert verdicts[0].unsteady
    assert verdicts[1] == verdicts[0], "a resumed run says the same"
    assert server.queries == 60 + ASKED_AGAIN, "and pays nothing for it"


# ------------------------------------------------------------------ the result


@pytest.mark.parametrize("given", [SMALL, AUTO], ids=["search", "auto"])
def test_a_result_has_what_was_promised(given: dict[str, Any]) -> None:
    backend = FakeBackend()
    result = tune(backend, SPLIT, **given).result
    recipe = given.get("recipe", "auto")
    assert result["recipe"] == recipe
    assert not {*PROMISED, *OWN[recipe]} - result.keys()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["model"] == "fake"
    assert result["shots"] == 4
    assert result["seed"] == 0
    assert (result["train_n"], result["test_n"]) == (20, 60)
    assert result["labels"] == list(TASK.labels)
    assert result["budget"] == given["budget"]
    assert backend.queries == result["queries"] + result["test_queries"]
    assert result["verdict"]
    assert result["comparison"]["n"] == 60
    assert all(type(result[name]) is float for name in result if name.endswith("seconds"))
    assert result["seconds"] >= result["backend_seconds"] + result["optimizer_seconds"]


@pytest.mark.parametrize("given", [SMALL, AUTO], ids=["search", "auto"])
def test_test_queries_stand_beside_the_budget(given: dict[str, Any]) -> None:
    model = tune(FakeBackend(), SPLIT, **given)
    result = model.result
    assert result["calls"] <= Budget.parse(given["budget"]).limit
    # Every way of asking, and the baseline's where it is none of the members'.
    ways = {member.source for member in model.members}
    assert result["queries_per_answer"] == len(ways)
    assert result["test_queries"] in (60 * len(ways), 60 * (len(ways) + 1))


def test_the_views_of_a_result_are_the_members_of_the_model() -> None:
    model = tune(FakeBackend(), SPLIT, **AUTO)
    views = model.result["views"]
    assert [view["name"] for view in views] == [member.name for member in model.members]
    assert [view["weight"] for view in views] == [member.weight for member in model.members]
    assert sum(view["weight"] for view in views) == pytest.approx(1)
    assert sum(part["queries"] for part in model.result["parts"]) == model.result["queries"]
    assert len(model.result["steps"]) == len(views)


def test_costs_stand_apart_for_search_and_test(finished: Finished) -> None:
    prices = Prices(3.0, 7.0)
    budget = Budget(40, "calls", prices)
    budget.charge(Usage(30, 900, output_tokens=60, lost=3, bounded=4, unparsed=5), 3)
    found = finished.outcome.found
    test = scored(finished.backend, found)
    usage = Usage(60, 1800, output_tokens=120, lost=7, bounded=8, unparsed=9)
    test = replace(test, usage=usage)
    result = build_result(finished.backend, finished.settings, budget, found, test)
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
    found = finished.outcome.found
    args = (finished.backend, finished.settings, finished.budget, found)
    result = build_result(*args, scored(finished.backend, found))
    assert result["cost_usd"] is result["test_cost_usd"] is None


@pytest.mark.parametrize("given", [SMALL, AUTO], ids=["search", "auto"])
def test_without_a_test_part_nothing_is_claimed(given: dict[str, Any]) -> None:
    result = tune(FakeBackend(), replace(SPLIT, test=()), **given).result
    assert result["verdict"] == UNMEASURED
    assert "not measured" in UNMEASURED
    assert result["test_n"] == result["test_queries"] == result["test_tokens"] == 0
    for name in (
        "test_accuracy",
        "baseline_accuracy",
        "untuned_accuracy",
        "comparison",
        "test_right",
    ):
        assert result[name] is None
    assert not {*PROMISED, *OWN[result["recipe"]]} - result.keys()


def test_times_alone_are_left_out() -> None:
    result = {"seconds": 1.0, "head_seconds": 2.0, "calls": 3, "secondary": 4}
    assert time_free(result) == {"calls": 3, "secondary": 4}
