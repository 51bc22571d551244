from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import BudgetError, ConfigError
from blackbox_delta.types import Usage


@pytest.mark.parametrize(
    ("text", "limit", "unit"),
    [
        (300, 300, "calls"),
        ("300", 300, "calls"),
        (" 1 call ", 1, "calls"),
        ("9600 queries", 9600, "queries"),
        ("1.1M tokens", 1_100_000, "tokens"),
        ("2M tokens", 2_000_000, "tokens"),
        ("2000000 TOKENS", 2_000_000, "tokens"),
        ("3k queries", 3_000, "queries"),
        ("10 min", 600, "seconds"),
        ("600 s", 600, "seconds"),
        ("0.5s", 0.5, "seconds"),
        ("1.5 h", 5400, "seconds"),
    ],
)
def test_parse_reads_every_unit(text: str | int, limit: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.limit, budget.unit) == (limit, unit)
    assert isinstance(budget.limit, int) or unit == "seconds"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many",
        "0",
        0,
        -3,
        "-3 calls",
        "1.5 calls",
        "3 euros",
        "1e9",
        "10 m",
        "10m",
        "2 min x",
        "nan",
        True,
        "٣",
    ],
)
def test_parse_refuses_what_makes_no_sense(text: str | int) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget.parse(text)


def test_a_limit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        Budget(float("inf"), "seconds")
    with pytest.raises(ConfigError, match="unknown"):
        Budget(3, "euros")  # type: ignore[arg-type]


@given(st.text())
def test_parse_never_fails_in_another_way(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except ConfigError:
        return
    assert Budget.parse(str(budget)).unit == budget.unit


class Spending(RuleBasedStateMachine):
    """Whoever asks first never exceeds the limit; who does not is stopped."""

    @initialize(limit=st.integers(1, 2000), unit=st.sampled_from(["calls", "queries", "tokens"]))
    def start(self, limit: int, unit: str) -> None:
        self.budget = Budget(limit, unit)  # type: ignore[arg-type]
        self.spent = {"calls": 0, "queries": 0, "tokens": 0}

    @rule(count=st.integers(1, 40), queries=st.integers(1, 64), tokens=st.integers(1, 300))
    def spend(self, count: int, queries: int, tokens: int) -> None:
        needs = (Need("one", 1, queries, tokens), Need("", 1, queries, tokens).times(count, "more"))
        usage = Usage((count + 1) * queries, (count + 1) * tokens, 0, 0.1 * count)
        if not self.budget.affords(*needs):
            with pytest.raises(BudgetError, match="must ask the budget first"):
                self.budget.charge(usage, count + 1)
            return
        self.budget.charge(usage, count + 1)
        for unit, each in (("calls", 1), ("queries", queries), ("tokens", tokens)):
            self.spent[unit] += (count + 1) * each

    @invariant()
    def never_exceeded(self) -> None:
        assert self.spent[self.budget.unit] == self.budget.spent <= self.budget.limit
        assert self.budget.fraction_spent == self.budget.spent / self.budget.limit
        spent = (self.budget.calls, self.budget.usage.queries, self.budget.usage.tokens)
        assert spent == tuple(self.spent.values())


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_seconds_are_predicted_from_the_slowest_request() -> None:
    budget = Budget(10, "seconds")
    call = Need("one call", 1, 32, 100)
    assert budget.affords(call.times(1000, "many"))  # nothing was measured yet
    budget.charge(Usage(queries=32, tokens=100, seconds=1.0), 1)  # 0.01 s a token
    budget.charge(Usage(queries=320, tokens=1000, seconds=1.0), 10)
    assert budget.affords(call.times(8, "the rest"))
    assert not budget.affords(call.times(9, "too many"))
    assert not budget.affords(call.times(8, "the rest"), call)
    budget.charge(Usage(queries=320, tokens=1000, seconds=9.0), 10)  # late, and allowed to be
    assert not budget.affords(Need("nothing", 0, 0, 0))
    assert budget.fraction_spent == 1.0


def test_seconds_are_predicted_per_query_where_tokens_are_unknown() -> None:
    budget = Budget(10, "seconds")
    budget.charge(Usage(queries=10, seconds=5.0), 1)
    assert budget.affords(Need("ten queries", 1, 10, 0))
    assert not budget.affords(Need("eleven queries", 1, 11, 0))


def test_the_clock_is_not_asked_so_that_a_replay_decides_the_same() -> None:
    budget = Budget(0.001, "seconds")
    time.sleep(0.002)
    assert budget.affords(Need("one call", 1, 32, 100))


def test_remaining_is_said_in_words() -> None:
    budget = Budget.parse(300)
    budget.charge(Usage(640, 9000, 9000, 1.0), 20)
    assert budget.remaining == "280 of 300 calls left"
    timed = Budget.parse("10 min")
    timed.charge(Usage(640, 9000, 9000, 15.2), 20)
    assert timed.remaining == "585 of 600 seconds left"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("300 calls", 300),
        ("9600 queries", 300),
        ("9631 queries", 300),
        ("31 queries", 0),
        ("2M tokens", 4000),
        ("10 min", None),
    ],
)
def test_the_most_calls_are_those_of_the_whole_budget(text: str, calls: int | None) -> None:
    budget, call = Budget.parse(text), Need("one call", 1, 32, 500)
    assert budget.most_calls(call) == calls
    if calls:
        budget.charge(Usage(64, 900, 900, 1.0), 2)
        assert budget.most_calls(call) == calls


def test_require_says_what_each_need_takes_and_what_would_do() -> None:
    baseline, generation = Need("the baseline", 3, 96, 2000), Need("one generation", 20, 640, 9000)
    with pytest.raises(BudgetError) as caught:
        Budget.parse("10 calls").require(baseline, generation)
    assert str(caught.value) == (
        "the budget of 10 calls is too small: the baseline takes 3 calls and one generation 20; "
        "give at least 23"
    )
    with pytest.raises(BudgetError, match=r"takes 96 queries and one generation 640; .* 736"):
        Budget.parse("735 queries").require(baseline, generation)
    with pytest.raises(BudgetError, match="one generation takes 9000 tokens; give at least 9000"):
        Budget.parse("8999 tokens").require(generation)
    Budget.parse("23 calls").require(baseline, generation)
    Budget.parse("736 queries").require(baseline, generation)
    Budget.parse("1 s").require(baseline, generation)
