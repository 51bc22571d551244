"""The recipe as a whole: what it spends, what it answers with, and what it says about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import NAMES, TEXT_ONLY, Planted, problem_of, split

from blackbox_delta.api import tune
from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME
from blackbox_delta.auto import Auto, race
from blackbox_delta.auto.pooling import weigh
from blackbox_delta.auto.views import DEMONSTRATIONS
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError, BlackBoxDeltaError, BudgetError, SpentError
from blackbox_delta.heads import HEADS, discriminant, make_head, weighing
from blackbox_delta.history import read_history
from blackbox_delta.members import Found, pool
from blackbox_delta.prices import Prices
from blackbox_delta.report import time_free
from blackbox_delta.runs import HISTORY_NAME
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Progress
from blackbox_delta.types import Backend, Evidence, Example, Json, ScoreRequest, Scores, Sink

N = 8
SMALL = split([4, 4], test=3)
#: Parts that every budget buys in this order.
FIRST_PARTS = ["the default view", "anchors of its label words", "further views"]


@dataclass
class Run:
    """A finished run."""

    auto: Auto
    budget: Budget
    found: Found
    backend: Backend

    @property
    def parts(self) -> list[Json]:
        return list(self.found.details["parts"])

    @property
    def names(self) -> list[str]:
        return [part["part"] for part in self.parts]

    def answers(self, examples: Sequence[Example]) -> np.ndarray:
        """(n, c) log class probabilities, as the members together answer."""
        said = []
        for member in self.found.members:
            request = member.request(member.reader.prompts(examples), member.head.top_k, "")
            said.append(member.head.log_proba(self.backend.score(request).candidate(0)))
        return pool(said, [member.weight for member in self.found.members], self.found.sharpness)

    def accuracy(self, examples: Sequence[Example]) -> float:
        truth = self.found.baseline.reader.verbalizer.encode(examples)
        return float((self.answers(examples).argmax(axis=1) == truth).mean())


def run(
    data: FewShotSplit = SMALL,
    budget: str | int = 12,
    backend: Backend | None = None,
    prices: Prices | None = None,
    **given_settings: Any,
) -> Run:
    """Runs at once, and checks what holds for every run."""
    backend = backend or Planted()
    chosen = Settings.of({"budget": budget, **given_settings})
    problem = problem_of(backend, data, **given_settings)
    paid = Budget.parse(chosen.budget, prices)
    auto = Auto(backend, problem, chosen, paid).run(backend)
    done = Run(auto, paid, auto.found, backend)
    check(done, chosen)
    return done


def check(done: Run, chosen: Settings) -> None:
    """What is reported is consistent, and everything is a number."""
    found, details = done.found, done.found.details
    spent = done.budget.usage
    assert sum(part["queries"] for part in done.parts) == spent.queries
    assert sum(part["tokens"] for part in done.parts) == spent.tokens
    assert done.names[0] == FIRST_PARTS[0]
    assert 1 <= len(found.members) <= chosen.max_queries_per_example
    weights = [member.weight for member in found.members]
    assert math.isclose(sum(weights), 1.0)
    assert weights == sorted(weights, reverse=True)
    said = [(view["name"], view["weight"]) for view in details["views"]]
    assert said == [(member.name, member.weight) for member in found.members]
    buys = details["steps"]
    assert [each["queries_per_answer"] for each in buys] == list(range(1, len(weights) + 1))
    last, pooled = buys[-1], done.parts[-1]
    for key in ("held_out_loss", "held_out_accuracy"):
        assert last[key] == pooled[key]
        assert all(math.isfinite(each[key]) for each in (*buys, *done.parts))
    finished = [name for part in done.parts for name in part["finished"]]
    assert {member.name for member in found.members} <= set(finished)
    raced = finished + [name for part in done.parts for name in part["dropped"]]
    assert len(raced) == len(set(raced))


# ------------------------------------------------------------------------- what it spends


@pytest.mark.parametrize("budget", ["1", "8 queries", "15 queries"])
def test_one_query_an_example_is_enough(budget: str) -> None:
    done = run(budget=budget)
    assert done.budget.usage.queries == N
    assert done.names == FIRST_PARTS[:1]
    (member,) = done.found.members
    assert member.name == "In one word, it is"
    assert np.isfinite(done.answers(SMALL.test)).all()


@pytest.mark.parametrize("budget", ["7 queries", "30 tokens", "$0.0000001"])
def test_less_is_refused_before_anything_is_asked(budget: str) -> None:
    backend = Planted()
    with pytest.raises(BudgetError, match="the first view"):
        run(budget=budget, backend=backend, prices=Prices(1.0, 1.0))
    assert backend.calls == 0


budgets = st.one_of(
    st.integers(1, 40).map(str),
    st.integers(N, 400).map(lambda queries: f"{queries} queries"),
    st.integers(150, 20_000).map(lambda tokens: f"{tokens} tokens"),
    st.integers(2, 120).map(lambda cents: f"${cents / 10_000:.4f}"),
    st.integers(1, 40).map(lambda tenths: f"{tenths / 10} s"),
)


def of_mixed_worth(loud: float, **able: Any) -> Planted:
    return Planted(lambda around: loud * (len(around) % 3), capabilities=replace(TEXT_ONLY, **able))


@settings(deadline=None, max_examples=15)
@given(budget=budgets, loud=st.sampled_from([0.0, 1.0, 4.0]), exact=st.booleans())
def test_no_budget_is_ever_exceeded(budget: str, loud: float, *, exact: bool) -> None:
    """Where tokens are estimated, estimates may be too low by almost a tenth."""
    backend = of_mixed_worth(loud, exact_tokens=exact, output_tokens=2)
    backend.billed = 1.0 if exact else 1.09
    done = run(budget=budget, backend=backend, prices=Prices(1.0, 2.0), head="calibrated")
    assert done.budget.usage == backend.usage
    assert done.budget.spent <= done.budget.limit
    assert done.budget.usage.queries == backend.asked.total()


@pytest.mark.parametrize("calls", [2, 5, 14])
def test_nor_with_the_head_that_asks_for_anchors(calls: int) -> None:
    backend = of_mixed_worth(2.0)
    done = run(budget=calls, backend=backend)
    assert done.budget.usage == backend.usage
    assert backend.usage.queries <= N * calls
    assert done.names[1:2] == (FIRST_PARTS[1:2])


def test_more_budget_leaves_no_earlier_part_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody drops out, the pool of a larger budget holds that of a smaller one."""
    monkeypatch.setattr(race, "CLEARLY", float("inf"))
    pools: list[set[str]] = []
    for calls in (1, 2, 3, 4, 6, 9, 13, 21):
        done = run(budget=calls, backend=of_mixed_worth(1.0), head="calibrated")
        first = [part for part in done.parts if part["part"] in FIRST_PARTS]
        pools.append({name for part in first for name in part["finished"]})
        assert done.names[: len(first)] == [part["part"] for part in first]
    assert all(smaller <= larger for smaller, larger in pairwise(pools))
    assert [len(each) for each in pools[:4]] == [1, 2, 3, 4]
    assert len(pools[-1]) == 16


def test_more_budget_asks_more_where_views_drop_out() -> None:
    spent = []
    for calls in (1, 2, 4, 8, 16, 32):
        done = run(budget=calls, backend=of_mixed_worth(4.0), head="calibrated")
        spent.append(done.budget.usage.queries)
        assert done.names[0] == FIRST_PARTS[0]
        assert (FIRST_PARTS[2] in done.names) == (calls > 1)
    assert spent == sorted(spent)


def test_nothing_is_asked_twice() -> None:
    backend = of_mixed_worth(2.0)
    run(budget=30, backend=backend, head="calibrated")
    prompts = {prompt: times for prompt, times in backend.asked.items() if times > 1}
    assert not prompts


@pytest.mark.parametrize(
    ("left", "gone", "head"),
    [
        ("words", "Category:", "calibrated"),
        ("demonstrations", "demonstrations", "calibrated"),
        ("anchors", "anchors", "anchored"),
    ],
)
def test_parts_can_be_left_out(left: str, gone: str, head: str) -> None:
    assert gone in str(run(budget=5, head=head).parts)
    assert gone not in str(run(budget=5, head=head, without=left).parts)


def test_without_anything_else_it_is_one_query_an_example() -> None:
    bare = run(budget=30, without="words,anchors,demonstrations,search")
    assert (bare.names, bare.budget.usage.queries) == (FIRST_PARTS[:1], N)


# ------------------------------------------------------------------------- determinism


def state_of(done: Run) -> list[Any]:
    members = [
        (
            member.name,
            member.weight,
            sorted((k, v.tolist()) for k, v in member.head.state().items()),
        )
        for member in done.found.members
    ]
    return [
        members,
        done.found.details,
        done.found.sharpness,
        replace(done.budget.usage, seconds=0),
    ]


def test_the_same_seed_gives_the_same_and_another_shows_others() -> None:
    one, again, other = (run(budget=6, seed=seed) for seed in (3, 3, 5))
    assert state_of(one) == state_of(again)
    assert str(one.parts) != str(other.parts)


def test_global_generators_have_no_say() -> None:
    before = state_of(run(budget=4))
    np.random.seed(7)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert state_of(run(budget=4)) == before
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# ------------------------------------------------------------------------- resuming

RESUMED: Json = {"budget": "6", "head": "calibrated"}


def ending(folder: Path, result: Json) -> list[Any]:
    files = [(folder / name).read_bytes() for name in (JSON_NAME, ARRAYS_NAME)]
    return [time_free(result), files, read_history(folder / HISTORY_NAME)]


def test_cut_off_anywhere_it_ends_alike_and_pays_nothing_twice(tmp_path: Path) -> None:
    whole = Planted()
    model = tune(whole, SMALL, out=tmp_path / "whole", **RESUMED)
    expected = ending(tmp_path / "whole", model.result)
    assert whole.calls >= 8
    for number in range(1, whole.calls + 1, 2):
        folder = tmp_path / str(number)
        backend = Planted(fail_at={number})
        with pytest.raises(BackendError, match=f"at call {number}"):
            tune(backend, SMALL, out=folder, **RESUMED)
        model = tune(backend, SMALL, out=folder, resume=True, **RESUMED)
        assert ending(folder, model.result) == expected
        assert backend.asked == whole.asked


# ------------------------------------------------------------------------- lost replies


class Losing(Planted):
    """Gives up for good at a call, after some queries that may be billed all the same."""

    gives_up_at = 0

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if self.calls + 1 == self.gives_up_at:
            raise SpentError("too many were lost", 3)
        return super().score(request, sink)


@pytest.mark.parametrize(("call", "parts"), [(2, 1), (3, 3), (5, 3)])
def test_when_replies_are_lost_what_finished_before_stands(call: int, parts: int) -> None:
    losing = Losing()
    losing.gives_up_at = call
    budget = Budget(9)
    done = Auto(losing, problem_of(losing, SMALL), Settings(budget="9"), budget).run(losing)
    found = done.found
    assert [part["part"] for part in found.details["parts"]] == FIRST_PARTS[:parts]
    assert [member.name for member in found.members] == ["In one word, it is"]
    assert budget.usage.queries == losing.usage.queries + 3


def test_when_replies_to_the_first_view_are_lost_there_is_no_answer() -> None:
    losing = Losing()
    losing.gives_up_at = 1
    auto = Auto(losing, problem_of(losing, SMALL), Settings(budget="9"), Budget(9))
    with pytest.raises(BudgetError, match="before the first view was scored"):
        auto.run(losing)


# ------------------------------------------------------------------------- what it says


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    return tune(Planted(lambda _: 2.0), split([6, 6, 6], test=20), budget="10")


def test_the_result_is_consistent(tuned: TunedModel) -> None:
    result = tuned.result
    assert sum(part["queries"] for part in result["parts"]) == result["queries"]
    assert sum(part["tokens"] for part in result["parts"]) == result["tokens"]
    assert result["queries"] <= 10 * 18
    assert result["calls"] == pytest.approx(result["queries"] / 18)
    assert result["queries_per_answer"] == len(result["views"]) == len(tuned.members)
    assert sum(view["weight"] for view in result["views"]) == pytest.approx(1.0)
    assert 0 <= result["estimate"] <= 1
    assert result["steps"][-1]["queries_per_answer"] == result["queries_per_answer"]
    assert result["head_seconds"] > 0
    assert (result["recipe"], result["head"]) == ("auto", "anchored")


def test_views_weigh_what_their_losses_say(tuned: TunedModel) -> None:
    """e times less for each 1/√n nats, among views of a kind."""
    views = tuned.result["views"]
    kinds = [[view for view in views if view["kind"] == kind] for kind in ("words", DEMONSTRATIONS)]
    for kind in kinds:
        losses = np.array([view["loss"] for view in kind])
        expected = np.exp(-math.sqrt(18) * (losses - losses.min()))
        found = np.array([view["weight"] for view in kind])
        np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=1e-6)
    assert sum(map(len, kinds)) == len(views)
    assert all(kinds)


def test_the_reported_test_accuracy_is_that_of_the_saved_model(
    tuned: TunedModel, tmp_path: Path
) -> None:
    test = split([6, 6, 6], test=20).test
    assert tuned.evaluate(test).accuracy == pytest.approx(tuned.result["test_accuracy"])
    tuned.save(tmp_path)
    loaded = TunedModel.load(tmp_path, backend=Planted(lambda _: 2.0))
    texts = [example.text for example in test]
    np.testing.assert_allclose(loaded.predict_proba(texts), tuned.predict_proba(texts))


def test_the_baseline_is_the_calibrated_verbalizer_fitted_by_hand(tuned: TunedModel) -> None:
    backend, data = Planted(lambda _: 2.0), split([6, 6, 6], test=20)
    problem = problem_of(backend, data)
    seen = []
    for part in (problem.train, problem.test):
        request = ScoreRequest(part.prompts, problem.reader.choices)
        seen.append(backend.score(request).candidate(0))
    train, test = seen
    offset = train.label_logprobs.mean(axis=0, dtype=float)
    right = (test.label_logprobs - offset).argmax(axis=1) == problem.test.labels
    assert tuned.result["baseline_accuracy"] == pytest.approx(right.mean())
    done = run(data, "10", backend)
    fitted = make_head("calibrated").fit(train, problem.train.labels, None)
    np.testing.assert_allclose(
        done.found.baseline.head.log_proba(test), fitted.log_proba(test), atol=1e-6
    )
    assert done.found.baseline.reader == problem.reader


def test_the_pool_is_what_its_weights_are_computed_from() -> None:
    """The members' weights, from the views that finished, by the pool's own rule."""
    done = run(budget=14)
    finished = done.auto._finished
    weights = dict(
        zip(
            [seen.view.name for seen in finished],
            weigh(finished, done.auto._asker.labels),
            strict=True,
        )
    )
    mine = [weights[member.name] for member in done.found.members]
    np.testing.assert_allclose(
        [member.weight for member in done.found.members], np.array(mine) / sum(mine)
    )
    assert sum(mine) >= 0.95 or len(mine) == 16


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_takes_no_more_queries_than_it_may(most: int) -> None:
    done = run(budget=20, max_queries_per_example=most)
    assert len(done.found.members) <= most
    backend = done.backend
    assert isinstance(backend, Planted)
    before = backend.usage.queries
    done.answers(SMALL.test)
    assert backend.usage.queries - before == len(done.found.members) * len(SMALL.test)


def test_demonstrations_may_answer_alone() -> None:
    """Where they do far better than words, they are all that is left; not all is known then."""
    shown = Planted(lambda around: 8.0 if "text" in around else 0.0)
    done = run(split([16, 16], test=10), 12, shown, max_queries_per_example=1)
    (member,) = done.found.members
    assert "demonstrations" in member.name
    assert done.accuracy(split([16, 16], test=10).test) > 0.9


def test_progress_is_told_and_never_goes_back() -> None:
    told: list[Progress] = []
    spent: list[float] = []

    def observe(step: Progress) -> None:
        told.append(step)
        spent.append(step.budget.spent)

    tune(Planted(), SMALL, budget="12", observer=observe)
    assert spent == sorted(spent)
    assert len(set(spent)) >= 4, "after every part, and every leg of a race"
    tested = [step.tested for step in told]
    assert tested == sorted(tested)
    assert tested[-1] == told[-1].to_test > 0


# ------------------------------------------------------------------------- what it learns


def test_a_task_that_can_be_told_apart_is_learnt() -> None:
    data = split([8, 8, 8], test=30)
    loud = Planted(lambda _: 5.0)
    alone, pooled = (run(data, calls, loud) for calls in (1, 8))
    for done in (alone, pooled):
        assert done.found.details["estimate"] > 0.9
        assert done.accuracy(data.test) > 0.9
    assert pooled.accuracy(data.test) > 0.97
    assert pooled.parts[-1]["held_out_loss"] < alone.parts[-1]["held_out_loss"]


def test_the_better_words_are_found() -> None:
    """One view of twelve says the class aloud, the others next to nothing."""
    one = Planted(lambda around: 6.0 if around.endswith("The answer is") else 0.2)
    data = split([8, 8], test=25)
    done = run(data, 16, one, without="demonstrations")
    assert done.found.members[0].name == "The answer is"
    assert done.found.members[0].weight > 0.8
    assert done.accuracy(data.test) > 0.95
    assert run(data, 1, one).accuracy(data.test) < 0.8


def by_lot(seed: int) -> FewShotSplit:
    return split([8, 8], start=100 * seed, by_lot=seed, test=16)


def held_out_accuracies(done: Run) -> list[float]:
    """Those of the views that finished, by their held-out predictions."""
    labels = done.auto._asker.labels
    found = []
    for seen in done.auto._finished:
        rows = np.flatnonzero(np.isfinite(seen.held_out[:, 0]))
        found.append(float((seen.held_out[rows].argmax(axis=1) == labels[rows]).mean()))
    return found


def test_on_labels_drawn_by_lot_held_out_predictions_are_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing is chosen in sight of all labels: no strength, no factor, no view."""
    monkeypatch.setattr(weighing, "fit_factors", lambda terms, _: np.ones(terms.shape[:-2]))
    monkeypatch.setattr(discriminant, "_STRENGTHS", np.array([0.3]))
    monkeypatch.setattr(race, "CLEARLY", float("inf"))
    found = []
    for seed in range(30):
        done = run(by_lot(seed), 6, Planted(lambda _: 0.0), seed=seed)
        found += held_out_accuracies(done)
    # Some 120 views of 16 examples, whose deviation is 0.5 / √(120·16) were they independent.
    assert len(found) >= 100
    assert 0.45 < np.mean(found) < 0.54


@pytest.fixture(scope="module")
def noise() -> list[Run]:
    return [run(by_lot(seed), 6, Planted(lambda _: 0.0), seed=seed) for seed in range(12)]


def test_on_labels_drawn_by_lot_nothing_is_learnt(noise: list[Run]) -> None:
    right = [done.accuracy(by_lot(seed).test) for seed, done in enumerate(noise)]
    assert 0.43 < np.mean(right) < 0.57


def test_on_labels_drawn_by_lot_no_more_is_promised(noise: list[Run]) -> None:
    assert np.mean([done.found.details["estimate"] for done in noise]) < 0.58


# ------------------------------------------------------------------------- bad input


def probabilities(done: Run, examples: Sequence[Example]) -> np.ndarray:
    found = np.exp(done.answers(examples))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-9)
    return found


@pytest.mark.parametrize("calls", [1, 3, 12])
@pytest.mark.parametrize("sizes", [[1, 1], [1, 24], [12, 1, 5], [2, 1], [1, 1, 1]])
def test_classes_of_very_different_sizes(sizes: list[int], calls: int) -> None:
    data = split(sizes, test=4)
    done = run(data, calls, Planted(lambda _: 4.0))
    found = probabilities(done, data.test)
    if sizes == [12, 1, 5]:
        truth = done.found.baseline.reader.verbalizer.encode(data.test)
        large = truth != 1
        assert (found.argmax(axis=1) == truth)[large].mean() > 0.7


def test_77_classes() -> None:
    data = split([2] * 77, test=1)
    done = run(data, 5, Planted(lambda _: 6.0), head="prototypes")
    probabilities(done, data.test)
    assert done.accuracy(data.test) > 0.5


def test_77_classes_with_the_default_head() -> None:
    data = split([1] * 77, test=1)
    done = run(data, 2, Planted(lambda _: 6.0))
    probabilities(done, data.test)


@pytest.mark.parametrize("calls", [1, 10])
def test_duplicates(calls: int) -> None:
    train = SMALL.train
    done = run(replace(SMALL, train=(*train, *train)), calls, Planted(lambda _: 4.0))
    probabilities(done, SMALL.test)
    assert done.accuracy(SMALL.test) > 0.8


@pytest.mark.parametrize("calls", [1, 10])
def test_contradictions_leave_it_undecided(calls: int) -> None:
    """Every text with both labels: nothing is to be known, and nothing is claimed."""
    both = [replace(each, label=name) for each in SMALL.train for name in NAMES[:2]]
    done = run(replace(SMALL, train=tuple(both)), calls, Planted(lambda _: 4.0))
    found = probabilities(done, SMALL.test)
    assert np.abs(found - 0.5).max() < 0.25
    assert done.found.details["estimate"] <= 0.6


ALL_HEADS = [name for name in HEADS if name != "contextual"]


@pytest.mark.parametrize("head", ALL_HEADS)
def test_a_model_that_always_says_the_same(head: str) -> None:
    same = Planted(lambda _: 0.0, spread=0.0)
    done = run(budget=3, backend=same, head=head)
    np.testing.assert_allclose(probabilities(done, SMALL.test), 0.5, atol=1e-6)


@pytest.mark.parametrize("head", ALL_HEADS)
def test_every_head_learns(head: str) -> None:
    data = split([4, 4, 4], test=4)
    done = run(data, 3, Planted(lambda _: 5.0), head=head)
    probabilities(done, data.test)
    assert done.accuracy(data.test) > 0.75


@pytest.mark.parametrize("top_k", [0, 1])
def test_models_that_tell_few_tokens_or_none(top_k: int) -> None:
    data = split([4, 4, 4], test=4)
    backend = Planted(lambda _: 5.0, capabilities=replace(TEXT_ONLY, max_top_k=top_k))
    done = run(data, 4, backend)
    assert {request.top_k for request in backend.requests} == {top_k}
    probabilities(done, data.test)
    assert done.accuracy(data.test) > 0.75


def test_a_head_whose_texts_cannot_be_paid_is_refused_before_anything_is() -> None:
    backend = Planted()
    with pytest.raises(BlackBoxDeltaError):
        run(budget=1, backend=backend, head="contextual")
    assert backend.calls == 0


def test_labels_that_are_sentences() -> None:
    words = {
        "class0": "Yes: {the} customer is very happy, isn't she?",
        "class1": "No \\ she is not happy at all; 100 % unhappy.",
    }
    data = split([6, 6], test=5)
    backend = Planted(lambda _: 0.0)
    done = run(data, 8, backend, label_words=words)
    probabilities(done, data.test)
    assert {choice.strip() for choice in backend.requests[0].choices} == set(words.values())


def test_the_toy_model_with_soft_slots() -> None:
    """Views are words in the soft slot; demonstrations stand in the text."""
    texts = [
        (word, k) for k, words in enumerate(("great fun", "awful bad")) for word in words.split()
    ]
    train = tuple(
        Example(f"a {word} movie with story {i}", label=("good", "poor")[k])
        for i in range(4)
        for word, k in texts
    )
    data = FewShotSplit(train, (), (Example("an excellent film", label="good"),), 8, 0)
    backend = FakeBackend()
    done = run(data, 6, backend, dimension=8)
    assert backend.queries == done.budget.usage.queries <= 6 * 16
    assert any(member.frame is not None for member in done.found.members)
    probabilities(done, data.test)


def test_evidence_is_never_changed() -> None:
    """Replies are shared between heads; whoever changed one would change the others'."""
    kept: list[tuple[Evidence, Evidence]] = []

    class Keeping(Planted):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            scores = super().score(request, sink)
            given_out = scores.candidate(0)
            copies = (given_out.label_logprobs, given_out.top_ids, given_out.top_logprobs)
            kept.append((given_out, Evidence(*(each.copy() for each in copies))))
            return scores

    run(budget=6, backend=Keeping())
    for now, before in kept:
        np.testing.assert_array_equal(now.label_logprobs, before.label_logprobs)
        np.testing.assert_array_equal(now.top_logprobs, before.top_logprobs)
