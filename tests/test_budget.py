from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import BudgetError, ConfigError
from blackbox_delta.prices import Prices
from blackbox_delta.types import Usage

PRICES = Prices(0.5, 2.0)  # $ per million


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
        ("$2.50", 2.5, "usd"),
        (" $ 3", 3, "usd"),
        ("$1.5k", 1500, "usd"),
        ("2.50 usd", 2.5, "usd"),
        ("2.5 Dollars", 2.5, "usd"),
        ("1 USD", 1, "usd"),
        ("$0.000000001", 1e-9, "usd"),
    ],
)
def test_parse_reads_every_unit(text: str | int, limit: float, unit: str) -> None:
    budget = Budget.parse(text, PRICES)
    assert (budget.limit, budget.unit) == (limit, unit)
    assert isinstance(budget.limit, int) or unit in ("seconds", "usd")


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
        "$",
        "$0",
        "$-1",
        "$3 usd",
        "$3 calls",
        "3$",
        "$1e3",
    ],
)
def test_parse_refuses_what_makes_no_sense(text: str | int) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget.parse(text, PRICES)


def test_a_limit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        Budget(float("inf"), "seconds")
    with pytest.raises(ConfigError, match="unknown"):
        Budget(3, "euros")  # type: ignore[arg-type]


def test_dollars_need_prices() -> None:
    with pytest.raises(ConfigError, match="settings price_in and price_out"):
        Budget.parse("$2.50")
    assert Budget.parse("300 calls").cost is None


@given(st.one_of(st.text(), st.from_regex(r"\A\$?[0-9]{1,8}(\.[0-9]{1,9})?( ?usd)?\Z")))
def test_parse_never_fails_in_another_way(text: str) -> None:
    try:
        budget = Budget.parse(text, PRICES)
    except ConfigError:
        return
    again = Budget.parse(str(budget), PRICES)
    assert again.unit == budget.unit
    if budget.unit != "seconds":
        assert again.limit == budget.limit


class Spending(RuleBasedStateMachine):
    """Whoever asks first never exceeds the limit; who does not is stopped."""

    @initialize(
        limit=st.integers(1, 2000), unit=st.sampled_from(["calls", "queries", "tokens", "usd"])
    )
    def start(self, limit: int, unit: str) -> None:
        size = limit / 1_000_000 if unit == "usd" else limit
        self.budget = Budget(size, unit, PRICES)  # type: ignore[arg-type]
        self.spent = {"calls": 0.0, "queries": 0.0, "tokens": 0.0, "usd": 0.0}

    @rule(
        count=st.integers(1, 40),
        queries=st.integers(1, 64),
        tokens=st.integers(1, 300),
        written=st.integers(0, 3),
    )
    def spend(self, count: int, queries: int, tokens: int, written: int) -> None:
        one = Need("one", 1, queries, tokens, written)
        usage = Usage((count + 1) * queries, (count + 1) * tokens, 0, 0.1 * count)
        usage = replace(usage, output_tokens=(count + 1) * written)
        if not self.budget.affords(one, one.times(count, "more")):
            with pytest.raises(BudgetError, match="must ask the budget first"):
                self.budget.charge(usage, count + 1)
            return
        self.budget.charge(usage, count + 1)
        price = (0.5 * tokens + 2.0 * written) / 1_000_000
        sizes = {"calls": 1, "queries": queries, "tokens": tokens, "usd": price}
        for unit, each in sizes.items():
            self.spent[unit] += (count + 1) * each

    @invariant()
    def never_exceeded(self) -> None:
        assert self.budget.spent <= self.budget.limit
        assert self.budget.spent == pytest.approx(self.spent[self.budget.unit], rel=1e-12)
        assert self.budget.fraction_spent == self.budget.spent / self.budget.limit
        spent = (self.budget.calls, self.budget.usage.queries, self.budget.usage.tokens)
        assert spent == (self.spent["calls"], self.spent["queries"], self.spent["tokens"])
        assert self.budget.cost == pytest.approx(self.spent["usd"], rel=1e-12)


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
    with pytest.raises(
        BudgetError, match="small: the baseline takes 6 calls and one generation 20"
    ):
        Budget.parse("10 calls").require(baseline, generation, baseline)
    Budget.parse("23 calls").require(baseline, generation)
    Budget.parse("736 queries").require(baseline, generation)
    Budget.parse("1 s").require(baseline, generation)


# ------------------------------------------------------------------------- money


def test_a_budget_in_dollars_is_said_in_dollars() -> None:
    budget = Budget.parse("2.5 usd", PRICES)
    assert str(budget) == "$2.50"
    budget.charge(Usage(10, 200_000, output_tokens=10_000), 1)
    assert budget.spent == budget.cost == pytest.approx(0.12)
    assert budget.remaining == "$2.38 of $2.50 left"
    assert budget.most_calls(Need("one call", 1, 10, 200_000, 10_000)) == 20


def test_require_says_how_many_dollars_would_do() -> None:
    baseline, generation = Need("the baseline", 3, 96, 2000, 96), Need("one", 20, 640, 9000, 640)
    with pytest.raises(BudgetError) as caught:
        Budget.parse("$0.001", PRICES).require(baseline, generation)
    assert str(caught.value) == (
        "the budget of $0.001 is too small: the baseline takes $0.00119 and one $0.00578; "
        "give at least $0.00698"
    )
    Budget.parse("$0.00698", PRICES).require(baseline, generation)


@given(st.integers(1, 10**7), st.integers(0, 10**4), st.floats(1e-3, 1e3))
def test_the_least_budget_in_dollars_suffices(tokens: int, written: int, price: float) -> None:
    need, prices = Need("all", 1, 1, tokens, written), Prices(price, 2 * price)
    budget = Budget(1e-12, "usd", prices)
    with pytest.raises(BudgetError) as caught:
        budget.require(need)
    least = Budget.parse(str(caught.value).rpartition("at least ")[2], prices)
    least.require(need)
    assert least.limit <= 1.01 * prices.cost(need.usage) + 1e-2


def test_what_costs_nothing_never_ends_and_is_refused() -> None:
    free = Budget.parse("$1", Prices(0, 5))
    with pytest.raises(ConfigError, match="costs nothing"):
        free.require(Need("one call", 1, 10, 300))
    free.require(Need("one call", 1, 10, 300, 10))


# ------------------------------------------------------------------------- lost queries


def test_lost_queries_count_where_they_may_be_billed() -> None:
    usage = Usage(queries=10, tokens=450, lost=5)
    for unit, spent in (("calls", 1), ("queries", 15), ("tokens", 450)):
        budget = Budget(1000, unit)  # type: ignore[arg-type]
        budget.charge(usage, 1)
        assert budget.spent == spent


def test_only_a_budget_in_queries_says_what_may_be_sent() -> None:
    budget = Budget.parse("100 queries")
    assert budget.left_to_send == 100
    budget.charge(Usage(queries=60, lost=7), 2)
    assert budget.left_to_send == 33
    for other in ("100", "100 tokens", "100 s", "$100"):
        assert Budget.parse(other, PRICES).left_to_send is None


def test_tokens_and_dollars_limit_what_is_sent_by_what_the_dearest_query_costs() -> None:
    need = Need("one request", 1, 10, 400, 20)
    for text, most in (
        ("399 tokens", 0),
        ("400 tokens", 10),
        ("449 tokens", 10),
        ("450 tokens", 11),
        ("1000 tokens", 22),
        ("$0.00049", 0),
        ("$0.0005", 10),  # 400 tokens at $1 and 20 at $5 per million
        ("$0.000559", 10),
        ("$0.000561", 11),  # one more of 50 tokens that writes 2
        ("24 queries", 24),
        ("9 queries", 9),
        ("2 calls", None),
        ("1 s", None),
    ):
        assert Budget.parse(text, Prices(1, 5)).most_sent(need, 50) == most, text
    free = Budget.parse("$1", Prices(0, 5))
    assert free.most_sent(Need("one request", 1, 10, 400), 50) is None


@settings(deadline=None)
@given(
    limit=st.integers(1, 10**6),
    unit=st.sampled_from(["tokens", "usd"]),
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=20),
    before=st.integers(0, 10**5),
    exact=st.booleans(),
)
def test_as_many_of_the_dearest_as_may_be_sent_are_within_the_budget(
    limit: int, unit: str, lengths: list[int], before: int, exact: bool
) -> None:
    budget = Budget(limit if unit == "tokens" else limit / 1e6, unit, Prices(1, 3))  # type: ignore[arg-type]
    budget.exact_tokens = exact
    budget.usage = Usage(1, before, lost=1)
    need = Need("one request", 1, len(lengths), sum(lengths), 2 * len(lengths))
    most = budget.most_sent(need, max(lengths))
    assert most is not None
    if budget.affords(need):
        assert most >= need.queries
    if most:
        again = most - need.queries
        spent = Usage(most, sum(lengths) + again * max(lengths), output_tokens=2 * most, lost=again)
        budget.charge(spent, 1)
        assert budget.spent <= budget.limit * (1 + 1e-12)


@pytest.mark.parametrize(
    ("unit", "exact", "lost", "binding"),
    [
        ("calls", False, 5, True),
        ("queries", False, 5, True),
        ("tokens", True, 0, True),
        ("tokens", True, 5, False),  # nobody knew that they would be lost
        ("tokens", False, 0, False),
        ("usd", True, 0, True),
        ("usd", True, 5, False),
        ("usd", False, 0, False),
        ("seconds", True, 0, False),
    ],
)
def test_only_what_could_be_foreseen_must_be_kept(
    unit: str, exact: bool, lost: int, binding: bool
) -> None:
    budget = Budget(1, unit, Prices(1e6, 0))  # type: ignore[arg-type]
    budget.exact_tokens = exact
    usage = Usage(queries=10, tokens=20, seconds=30.0, lost=lost)
    if binding:
        with pytest.raises(BudgetError, match="must ask the budget first"):
            budget.charge(usage, 2)
        assert budget.spent == 0
    else:
        budget.charge(usage, 2)
        assert budget.fraction_spent == 1
        assert not budget.affords(Need("nothing", 0, 0, 0))


# ------------------------------------------------------------------------- parts of calls


def in_parts(limit: int, call_size: int) -> Budget:
    """A budget in calls that are so many queries each."""
    budget = Budget(limit)
    budget.call_size = call_size
    return budget


def test_parts_of_calls_are_spent_where_a_call_has_a_size() -> None:
    budget = in_parts(3, 10)
    budget.charge(Usage(queries=12), 0)
    assert (budget.calls, budget.spent, budget.left_to_send) == (1.2, 1.2, 18)
    assert budget.remaining == "2 of 3 calls left"
    budget.charge(Usage(queries=3, lost=4), 7)  # how it was asked for does not matter
    assert (budget.calls, budget.left_to_send) == (1.9, 11)
    assert budget.affords(Need("fits", 5, 11, 1))
    assert not budget.affords(Need("does not", 0, 12, 1))
    assert budget.fresh().call_size == 10
    assert budget.fresh().left_to_send == 30


def test_other_units_count_calls_in_parts_too_and_limit_what_they_did() -> None:
    for unit, left in (("queries", 988), ("tokens", None), ("seconds", None)):
        budget = Budget(1000, unit)  # type: ignore[arg-type]
        budget.call_size = 10
        budget.charge(Usage(queries=12, tokens=40), 0)
        assert (budget.calls, budget.left_to_send) == (1.2, left)


def test_too_few_calls_are_told_in_calls() -> None:
    budget = in_parts(1, 10)
    budget.require(Need("the first view", 0, 10, 99))
    with pytest.raises(BudgetError, match=r"the first view takes 1\.5 calls; give at least 2$"):
        budget.require(Need("the first view", 0, 15, 99))
    with pytest.raises(BudgetError, match=r"would bring the budget of 1 call to 1\.1 calls"):
        budget.charge(Usage(queries=11), 0)


@settings(deadline=None)
@given(
    limit=st.integers(1, 10**6),
    call_size=st.integers(1, 10**4),
    asked=st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=12),
)
def test_parts_of_calls_never_exceed_the_budget(
    limit: int, call_size: int, asked: list[tuple[float, bool]]
) -> None:
    """Counted in whole queries, where nothing is rounded; the very last query is still allowed."""
    budget, left = in_parts(limit, call_size), limit * call_size
    for share, lost in asked:
        assert budget.left_to_send == left
        queries = max(1, int(share * left)) if left else 0
        need = Need("some", 0, queries, 1)
        if not queries:
            assert not budget.affords(need)
            break
        assert budget.affords(need)
        budget.charge(Usage(lost=queries) if lost else Usage(queries=queries), 0)
        left -= queries
        assert budget.calls == pytest.approx((limit * call_size - left) / call_size)
    if left:
        assert not budget.affords(Need("one too many", 0, left + 1, 1))
        with pytest.raises(BudgetError):
            budget.charge(Usage(queries=left + 1), 0)
        assert budget.affords(Need("all that is left", 0, left, 1))
        budget.charge(Usage(queries=left), 0)
    assert budget.spent == limit
    assert budget.fraction_spent == 1


# ------------------------------------------------------------------------- estimates


@pytest.mark.parametrize("unit", ["tokens", "usd"])
def test_a_tenth_is_kept_back_where_tokens_are_estimated(unit: str) -> None:
    budget = Budget(1000, unit, Prices(1e6, 0))  # type: ignore[arg-type]
    budget.exact_tokens = False
    assert budget.affords(Need("fits", 1, 1, 909))
    assert not budget.affords(Need("does not", 1, 1, 910))
    with pytest.raises(BudgetError, match=r"give at least \$?1001(\.00)?, a tenth to spare"):
        budget.require(Need("does not", 1, 1, 910))
    budget.charge(Usage(queries=1, tokens=500), 1)
    assert budget.affords(Need("fits", 1, 1, 454))
    assert not budget.affords(Need("does not", 1, 1, 455))


def test_calls_and_queries_need_no_margin() -> None:
    for unit in ("calls", "queries"):
        budget = Budget(100, unit)  # type: ignore[arg-type]
        budget.exact_tokens = False
        assert budget.affords(Need("all", 100, 100, 10**9))


def test_a_fresh_budget_has_nothing_spent() -> None:
    budget = Budget.parse("$1", PRICES)
    budget.exact_tokens = False
    budget.charge(Usage(10, 1000), 1)
    fresh = budget.fresh()
    assert (fresh.spent, fresh.calls, str(fresh)) == (0, 0, "$1.00")
    assert (fresh.prices, fresh.exact_tokens) == (PRICES, False)
    assert budget.calls == 1
