"""What a run is foretold to cost against what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TEXT_ONLY, Planted, around, asked_text, noise, problem_of, split

from blackbox_delta.api import forecast, tune
from blackbox_delta.auto import race
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BlackBoxDeltaError, ConfigError
from blackbox_delta.forecast import Cost, Forecast
from blackbox_delta.problem import Problem
from blackbox_delta.tasks import VIEW_STARTS
from blackbox_delta.types import Example, Json, ScoreRequest, Scores, Sink

SHOTS, CLASSES, TESTS = 4, 2, 3
N, ANCHORS = SHOTS * CLASSES, 4 * CLASSES
DATA = split([SHOTS] * CLASSES, test=TESTS)
#: A demonstration of each class leaves the rest to learn from.
DEMONSTRATING = N - CLASSES + ANCHORS
PRICES = {"price_in": 1.0, "price_out": 2.0}


def foretold(budget: str, backend: Planted | None = None, **given: Any) -> Forecast:
    return forecast(backend or Planted(), DATA, budget=budget, **given)


def spent(budget: str, backend: Planted | None = None, **given: Any) -> Json:
    return tune(backend or Planted(), DATA, budget=budget, **given).result


def pool_by_hand(limit: int) -> int:
    """Queries of the views that can enter one after another, no prompt costing more than one."""
    entries = [N, ANCHORS]
    others = len(VIEW_STARTS) - 1
    for number in range(others):
        entries += [DEMONSTRATING, N + ANCHORS] if number < 4 else [N + ANCHORS]
    total = 0
    for number, queries in enumerate(entries):
        if total + queries > limit and number == 1:
            continue  # anchors that cannot be paid are left out
        if total + queries > limit:
            break
        total += queries
    return total


@pytest.mark.parametrize("queries", [8, 9, 15, 16, 17, 29, 30, 31, 45, 46, 100, 290, 1000])
def test_the_pool_in_queries_by_hand(queries: int) -> None:
    first, last = foretold(f"{queries} queries").starts
    assert first.search.queries == pool_by_hand(queries)
    assert first.search.queries <= last.search.queries <= queries


def test_the_first_view_alone_by_hand() -> None:
    """One call: 8 prompts of 'Text: text 1 of class0\\nIn one word, it is' and a start token."""
    first, last = foretold("1", **PRICES).starts
    alone = Cost(1, N, N * (1 + 10), 0, N * 11 / 1e6)
    assert first.search == last.search == alone
    test = Cost(1, CLASSES * TESTS, CLASSES * TESTS * 11, 0, pytest.approx(6 * 11 / 1e6))  # type: ignore[arg-type]
    assert first.test_least == first.test_most == test
    assert first.least == replace(
        alone, calls=2, queries=14, tokens=154, usd=pytest.approx(154 / 1e6)
    )


@pytest.fixture
def nobody_drops_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "CLEARLY", float("inf"))


@pytest.mark.usefixtures("nobody_drops_out")
@pytest.mark.parametrize(
    ("budget", "head"),
    [
        *((f"{calls}", "calibrated") for calls in (1, 2, 5, 11, 40)),
        *((text, "calibrated") for text in ("90 queries", "700 tokens", "4k tokens", "$0.003")),
        *((text, "anchored") for text in ("2", "70 queries", "700 tokens")),
    ],
)
def test_where_nobody_drops_out_the_pool_costs_what_was_foretold(budget: str, head: str) -> None:
    """Without the rounds of demonstrations that follow it, by asking for none in them."""
    shown = {"without": "demonstrations,search", "head": head, **PRICES}
    told, result = foretold(budget, **shown).starts[0], spent(budget, **shown)
    assert told.search.queries == result["queries"]
    assert told.search.tokens == result["tokens"]
    assert told.search.calls == round(result["calls"])
    assert told.search.usd == pytest.approx(result["cost_usd"])


def of_mixed_worth(loud: float) -> Planted:
    """Views of very different worth, so that some drop out and others can enter."""
    return Planted(lambda around: loud * (len(around) % 3))


@settings(deadline=None, max_examples=8)
@given(
    budget=st.one_of(
        st.integers(1, 40).map(lambda calls: (f"{calls} calls", calls * N)),
        st.integers(8, 400).map(lambda queries: (f"{queries} queries", queries)),
    ),
    loud=st.sampled_from([0.0, 1.0, 4.0]),
    most=st.sampled_from([1, 3, 16]),
)
def test_the_test_part_and_the_budget_are_no_larger_than_foretold(
    budget: tuple[str, int], loud: float, most: int
) -> None:
    given_settings: Json = {"head": "calibrated", "max_queries_per_example": most}
    told = foretold(budget[0], of_mixed_worth(loud), **given_settings)
    result = spent(budget[0], of_mixed_worth(loud), **given_settings)
    assert max(start.search.queries for start in told.starts) <= budget[1]
    assert result["test_queries"] <= max(start.test_most.queries for start in told.starts)


@pytest.mark.parametrize("calls", [4, 16, 19])
def test_no_run_costs_more_than_was_foretold(calls: int) -> None:
    loud = {4: 4.0, 16: 4.0, 19: 0.0}[calls]
    told = foretold(f"{calls}", of_mixed_worth(loud), head="calibrated")
    result = spent(f"{calls}", of_mixed_worth(loud), head="calibrated")
    assert result["queries"] <= max(start.search.queries for start in told.starts)
    assert result["tokens"] <= max(start.search.tokens for start in told.starts)


def test_it_asks_nothing() -> None:
    backend = Planted()
    foretold("40", backend)
    assert backend.calls == 0


def test_seconds_are_not_foretold() -> None:
    with pytest.raises(ConfigError, match="cannot be predicted"):
        foretold("10 min")


def test_it_says_whether_tokens_are_estimates() -> None:
    assert foretold("3").exact
    estimating = Planted(capabilities=replace(TEXT_ONLY, exact_tokens=False))
    assert not foretold("3", estimating).exact


@pytest.mark.parametrize(
    ("budget", "first"),
    [
        ("7 queries", "one pass over the training examples"),
        ("50 tokens", "the first view"),
        ("$0.00001", "the first view"),
    ],
)
def test_what_is_too_little_for_the_first_view_is_refused_here_too(budget: str, first: str) -> None:
    with pytest.raises(BlackBoxDeltaError, match=f"too small: {first} takes"):
        foretold(budget, **PRICES)


def test_written_tokens_are_foretold_where_the_model_writes() -> None:
    writing = Planted(capabilities=replace(TEXT_ONLY, output_tokens=3))
    for start in foretold("9", writing, **PRICES).starts:
        for cost in (start.search, start.test_least, start.test_most):
            assert cost.output_tokens == 3 * cost.queries
            assert cost.usd == pytest.approx((cost.tokens + 2 * cost.output_tokens) / 1e6)


def test_without_a_test_part_the_test_is_free() -> None:
    told = forecast(Planted(), split([SHOTS] * CLASSES), budget="5")
    for start in told.starts:
        assert start.test_least.queries == start.test_most.queries == 0
        assert start.test_most.calls == 0


def test_with_soft_slots_tokens_of_the_slot_are_counted() -> None:
    """The toy model with soft prompts: the words' tokens stand in the slot instead."""
    (first, *_) = forecast(FakeBackend(), DATA, budget="1", dimension=4).starts
    backend = FakeBackend(accepts=())
    problem: Problem = problem_of(backend, DATA)
    request = ScoreRequest(problem.train.prompts, problem.reader.choices)
    assert first.search.tokens == backend.count_tokens(request).sum()
    assert isinstance(problem.train.examples[0], Example)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": "40"},
        {"budget": "60k tokens"},
        {"budget": "$0.08"},
        {"budget": "40", "without": "words"},
        {"budget": "40", "max_queries_per_example": 8},
    ],
)
def test_a_pool_that_fills_up_with_demonstrations_is_no_dearer_than_foretold(change: Json) -> None:
    """Rounds of demonstrations bring more of the dear views than the first pool has."""
    data = split([16, 16], test=30)
    told = forecast(Planted(demonstrations_say_more), data, **change, **PRICES).starts
    result = tune(Planted(demonstrations_say_more), data, **change, **PRICES).result
    least, most = told[0].test_least, told[0].test_most
    assert least.queries < result["test_queries"] <= most.queries
    assert least.tokens < result["test_tokens"] <= most.tokens
    assert result["test_cost_usd"] <= (most.usd or 0)


class Imitating(FakeBackend):
    """The toy model with its soft prompts, to which examples before a text say most."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores = super().score(request)
        said = np.empty_like(scores.label_logprobs)
        for place, prompt in enumerate(request.prompts):
            knows = demonstrations_say_more(around(prompt))
            text = asked_text(prompt)
            said[:, place] = noise(text, said.shape[2]) - 6
            said[:, place, int(text.endswith("class1"))] += knows
        return replace(scores, label_logprobs=said)


def test_rounds_of_demonstrations_are_foretold_where_the_pool_has_none() -> None:
    """The user's own words have a soft slot and none of theirs in it; the shipped ones have."""
    data = split([16, 16], test=30)
    given: Json = {"budget": "40", "template": "{text} {soft} It was {label}", **PRICES}
    told = forecast(Imitating(), data, **given).starts[-1]
    result = tune(Imitating(), data, **given).result
    assert any("round" in part["part"] for part in result["parts"])
    assert result["tokens"] <= told.search.tokens
    assert result["test_tokens"] <= told.test_most.tokens


@pytest.mark.parametrize("calls", [14, 16, 20])
def test_words_that_the_model_proposes_are_foretold(calls: int) -> None:
    """Short texts: the question is longer than any of them."""
    data, given = split([4] * 6), {"budget": f"{calls}", "without": "demonstrations,search"}
    told = forecast(FakeBackend(), data, **given, head="discriminant").starts[-1]
    result = tune(FakeBackend(), data, **given, head="discriminant").result
    assert result["parts"][-1]["part"] == "rewritings"
    assert result["tokens"] <= told.search.tokens


def demonstrations_say_more(around: str) -> float:
    return 1.5 if "class" in around else 0.5


@pytest.mark.parametrize("budget", ["$999999999999", "999999999999M tokens", "999999999999 calls"])
def test_no_budget_is_too_large_to_foretell(budget: str) -> None:
    assert foretold(budget, **PRICES).starts[-1].search.queries > 10**9
