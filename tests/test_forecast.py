"""What is foretold is what a run then spends, and what it does when replies are lost."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BudgetError, ConfigError, SpentError
from blackbox_delta.forecast import Forecast, StartForecast
from blackbox_delta.heads import make_head
from blackbox_delta.problem import build_problem
from blackbox_delta.report import score_test
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import DEFAULT_STARTS, draw_split, load_task
from blackbox_delta.tuner import CHECK_EVERY, Outcome, Tuner
from blackbox_delta.types import (
    Capabilities,
    IntArray,
    Json,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
)

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SMALL: dict[str, Any] = {
    "recipe": "search",
    "dimension": 20,
    "population": 4,
    "head": "calibrated",
    "price_in": 0.5,
    "price_out": 2.0,
}
LIMITS = {"calls": 50, "queries": 600, "tokens": 20_000, "usd": 0.012}


class Api(FakeBackend):
    """The toy model as a server has it: it writes tokens, loses replies and counts differently.

    Args:
        written: Tokens in each reply.
        estimate: What ``count_tokens`` makes of the true number; exact where it is 1.
        lose: Share of the sent queries whose reply is lost.
        accepts: As for the fake model.
        served: Whether it has an address.
    """

    def __init__(
        self,
        *,
        written: int = 2,
        estimate: float = 1.0,
        lose: float = 0.0,
        accepts: frozenset[str] = frozenset({"soft-prompt"}),
        served: bool = False,
    ) -> None:
        super().__init__(accepts=accepts)
        self._address: Json = {"endpoint": {"base_url": "http://127.0.0.1:1"}} if served else {}
        self.written, self.estimate, self.lose = written, estimate, lose
        self.rng = np.random.default_rng(0)
        self.sent = 0
        self.requests: list[ScoreRequest] = []

    @property
    def address(self) -> Json:
        return self._address

    @property
    def capabilities(self) -> Capabilities:
        exact = self.estimate == 1
        return replace(super().capabilities, exact_tokens=exact, output_tokens=self.written)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        true = super().count_tokens(request)
        return np.maximum(1, np.round(self.estimate * true)).astype(np.int64)

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.requests.append(request)
        answered, sent = 0, 0
        while answered < request.queries:
            again = request.queries - answered
            if request.max_sent is not None and sent + again > request.max_sent:
                self.sent += sent
                raise SpentError("replies were lost", sent, sent - answered)
            sent += again
            answered += again - int(self.rng.binomial(again, self.lose))
        self.sent += sent
        true = int(super().count_tokens(request).sum()) * request.candidates
        usage = Usage(
            request.queries,
            round(true * sent / request.queries),
            output_tokens=self.written * sent,
            lost=sent - request.queries,
            seconds=0.01 * sent,
        )
        return replace(super().score(request, sink), usage=usage)


class Run:
    """One run with what was foretold of it."""

    def __init__(self, backend: Api, *, shots: int = 2, max_test: int = 7, **given: Any) -> None:
        self.settings = Settings.of({**SMALL, **given})
        self.backend = backend
        self.budget = Budget.parse(self.settings.budget, self.settings.prices)
        self.split = draw_split(TASK, shots=shots, seed=0, max_test=max_test)
        self.problem = build_problem(backend, self.split, self.settings)
        self.tuner = Tuner(backend, self.problem, self.settings, self.budget)

    def forecast(self) -> Forecast:
        forecast = self.tuner.forecast()
        assert self.backend.calls == 0
        assert self.budget.usage == Usage()
        return forecast

    def go(self) -> Outcome:
        return self.tuner.run(self.backend)


def of_start(forecast: Forecast, outcome: Outcome) -> StartForecast:
    """The forecast for the start that won."""
    [found] = [start for start in forecast.starts if start.words == outcome.problem.words]
    return found


def written_budget(limit: float, unit: str) -> str:
    return f"{limit:.9f} usd" if unit == "usd" else f"{int(limit)} {unit}"


# ------------------------------------------------------------------------- the forecast


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    share=st.floats(0.1, 1),
    unit=st.sampled_from(sorted(LIMITS)),
    population=st.integers(4, 7),
    shots=st.integers(1, 3),
    head=st.sampled_from(["calibrated", "contextual"]),
    how=st.sampled_from(
        [{}, {"soft_init": "random"}, {"template": "{text} It is {label}"}, {"accepts": ()}]
    ),
    written=st.sampled_from([0, 2]),
    served=st.booleans(),
)
def test_a_run_spends_what_was_foretold(
    share: float,
    unit: str,
    population: int,
    shots: int,
    head: str,
    how: dict[str, Any],
    written: int,
    served: bool,
) -> None:
    given_settings = dict(how)
    accepts = frozenset(given_settings.pop("accepts", {"soft-prompt"}))
    try:
        run = Run(
            Api(written=written, accepts=accepts, served=served),
            shots=shots,
            population=population,
            head=head,
            budget=written_budget(share * LIMITS[unit], unit),
            **given_settings,
        )
    except (BudgetError, ConfigError):
        assume(False)
    forecast = run.forecast()
    outcome = run.go()
    told = of_start(forecast, outcome)
    spent = run.budget.usage
    assert told.search.calls == run.budget.calls
    assert told.search.generations == outcome.generations
    assert (told.search.queries, told.search.tokens) == (spent.queries, spent.tokens)
    assert told.search.output_tokens == spent.output_tokens
    assert told.search.usd == pytest.approx(run.budget.cost, rel=1e-12)
    assert forecast.exact
    for index, cost in ((0, told.test_least), (-1, told.test_most)):
        before = run.backend.queries
        test = score_test(
            run.backend,
            replace(outcome, chosen=outcome.options[index]).found,
            run.split.test,
            lambda *_: None,
        )
        assert test is not None
        assert cost.queries == test.usage.queries == run.backend.queries - before
        assert cost.tokens == test.usage.tokens
        assert cost.output_tokens == test.usage.output_tokens
        assert cost.usd == pytest.approx(run.settings.prices.cost(test.usage), rel=1e-12)  # type: ignore[union-attr]
        assert cost.calls == test.usage.queries / 7 - served


def test_starts_of_other_lengths_cost_other_tokens() -> None:
    forecast = Run(Api(), budget="40 calls").forecast()
    assert [start.words for start in forecast.starts] == list(DEFAULT_STARTS)
    first, second = forecast.starts
    assert first.search.queries == second.search.queries
    assert first.search.tokens > second.search.tokens
    assert first.least.tokens == first.search.tokens + first.test_least.tokens
    assert first.most.queries == first.search.queries + first.test_most.queries
    assert first.most.usd == pytest.approx((first.search.usd or 0) + (first.test_most.usd or 0))


def test_without_prices_no_money_is_foretold_and_without_a_test_part_no_test() -> None:
    run = Run(Api(), budget="40 calls", price_in=None, price_out=None)
    assert run.forecast().starts[0].most.usd is None
    run.problem = replace(run.problem, test=replace(run.problem.test, prompts=[]), rivals=())
    tuner = Tuner(run.backend, run.problem, run.settings, run.budget)
    [start] = tuner.forecast().starts
    assert start.least == start.most == start.search


def test_a_budget_in_seconds_cannot_be_foretold() -> None:
    run = Run(Api(), budget="10 s")
    with pytest.raises(ConfigError, match="budget of 10 seconds buys cannot be predicted"):
        run.forecast()


@pytest.mark.parametrize("unit", ["tokens", "usd"])
@pytest.mark.parametrize("estimate", [0.95, 1.05])
def test_estimates_keep_a_margin_and_are_foretold_as_such(unit: str, estimate: float) -> None:
    run = Run(Api(estimate=estimate), budget=written_budget(LIMITS[unit], unit))
    forecast = run.forecast()
    told = of_start(forecast, run.go()).search
    assert not forecast.exact
    assert run.budget.spent <= run.budget.limit
    spent = run.budget.usage.tokens
    assert told.tokens == pytest.approx(spent, rel=0.1)
    assert told.tokens != spent


def test_tokens_far_beyond_their_estimate_end_the_run_in_order() -> None:
    run = Run(Api(estimate=0.5), budget="6000 tokens")
    outcome = run.go()
    assert outcome.chosen in outcome.options
    # What was asked last brought the surprise; nothing was asked after it.
    last = run.backend.requests[-1]
    true = 2 * last.candidates * int(run.backend.count_tokens(last).sum())
    assert 6000 * 0.8 < run.budget.usage.tokens < 6000 + 1.1 * true


def test_an_estimate_so_wrong_that_nothing_can_be_chosen_is_an_error() -> None:
    with pytest.raises(BudgetError) as caught:
        Run(Api(estimate=0.1), budget="1 tokens")
    least = str(caught.value).rpartition("at least ")[2].split(",")[0]
    run = Run(Api(estimate=0.1), budget=f"{least} tokens")
    with pytest.raises(BudgetError, match="before the untuned model was scored"):
        run.go()
    assert len(run.backend.requests) == 1


# ------------------------------------------------------------------------- purposes


def test_every_request_says_what_it_is_for() -> None:
    run = Run(Api(), budget="30 calls")
    outcome = run.go()
    purposes = [request.purpose for request in run.backend.requests]
    look = ["look", "development"]
    searches = [*["search"] * CHECK_EVERY, *look]
    assert outcome.generations == CHECK_EVERY + 1
    assert purposes == ["start", "start", "development", *searches, "search", *look]
    del run.backend.requests[:]
    tuned = replace(outcome, chosen=outcome.options[-1]).found
    score_test(run.backend, tuned, run.split.test, lambda *_: None)
    assert [request.purpose for request in run.backend.requests] == ["test", "test"]
    assert {request.max_sent for request in run.backend.requests} == {None}


# ------------------------------------------------------------------------- lost replies


def test_only_a_budget_in_what_may_be_billed_limits_what_is_sent() -> None:
    for budget in ("40 calls", "3 s"):
        run = Run(Api(), budget=budget)
        run.go()
        assert {request.max_sent for request in run.backend.requests} == {None}
    for budget in ("9000 tokens", "$0.01"):
        run = Run(Api(), budget=budget)
        run.go()
        for request in run.backend.requests:
            assert request.max_sent is not None
            assert request.max_sent >= request.queries
    run = Run(Api(), budget="300 queries")
    run.go()
    left = 300
    for request in run.backend.requests:
        assert request.max_sent == left
        left -= request.queries


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limit=st.integers(120, 700), lose=st.floats(0, 0.5), population=st.integers(4, 7))
def test_a_budget_of_n_queries_sends_no_more(limit: int, lose: float, population: int) -> None:
    run = Run(Api(lose=lose), budget=f"{limit} queries", population=population)
    try:
        outcome = run.go()
    except BudgetError:
        assert lose, "nothing was lost, and the budget paid for a generation"
    else:
        assert any(outcome.chosen is option for option in outcome.options)
    assert run.backend.sent == run.budget.spent <= limit


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limit=st.integers(9000, 25000),
    money=st.booleans(),
    lose=st.floats(0, 0.9),
    population=st.integers(4, 7),
)
def test_a_budget_in_tokens_or_dollars_pays_for_lost_replies_too(
    limit: int, money: bool, lose: float, population: int
) -> None:
    budget = f"${limit / 1e6:.6f}" if money else f"{limit} tokens"
    run = Run(Api(lose=lose), budget=budget, population=population)
    try:
        run.go()
    except BudgetError:
        assert lose, "nothing was lost, and the budget paid for a generation"
    usage = run.budget.usage
    assert run.backend.sent == usage.queries + usage.lost
    assert run.budget.spent <= run.budget.limit * (1 + 1e-12)


class LostAt(Api):
    """Loses every reply to the requests of the given numbers, all but one of its queries."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if len(self.requests) + 1 in self.numbers:
            self.requests.append(request)
            assert request.max_sent is not None
            raise SpentError("replies were lost", sent=request.max_sent - 1)
        return super().score(request, sink)


@pytest.mark.parametrize(
    ("number", "generations", "options"),
    [
        (4, 0, 2),  # the probes
        (5, 0, 2),  # the first generation
        (8, 3, 2),  # the fourth
        (9, 4, 2),  # the look after it
        (10, 4, 2),  # its development examples
        (11, 4, 3),  # the fifth generation
    ],
)
def test_a_search_that_runs_out_chooses_among_what_it_has(
    number: int, generations: int, options: int
) -> None:
    run = Run(LostAt(number), budget="900 queries")
    outcome = run.go()
    assert len(run.backend.requests) == number
    assert outcome.generations == generations
    assert len(outcome.options) == options
    assert run.budget.spent == 899
    asked = sum(request.candidates for request in run.backend.requests[:-1])
    assert run.budget.calls == asked
    # The tokens of what was sent in vain are counted as those of any other query.
    means = [run.backend.count_tokens(request).mean() for request in run.backend.requests]
    assert min(means) <= run.budget.usage.tokens / run.budget.usage.queries <= max(means)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_that_runs_out_before_it_has_anything_says_so(number: int) -> None:
    run = Run(LostAt(number), budget="900 queries")
    with pytest.raises(BudgetError, match=r"give a larger budget") as caught:
        run.go()
    assert not isinstance(caught.value, SpentError)
    assert run.budget.spent == 899
    assert len(run.backend.requests) == number


# ------------------------------------------------------------------------- starts in words


def test_a_text_only_model_begins_with_the_better_words() -> None:
    """Put in as plain words; the first and the last of the starts win in turn."""
    won = set()
    for seed in range(4):
        backend = Api(accepts=frozenset())
        split = draw_split(TASK, shots=2, seed=seed, max_test=7)
        own = {"head": "contextual", "budget": "3 calls", "dimension": None, "population": None}
        given_settings = Settings.of({**SMALL, **own})
        problem = build_problem(backend, split, given_settings)
        budget = Budget.parse("3 calls")
        outcome = Tuner(backend, problem, given_settings, budget).run(backend)
        losses = []
        head = make_head("contextual")
        for start in (problem, *problem.rivals):
            free = start.reader.references(head)
            evidence, reference = (
                FakeBackend().score(start.request(prompts, None)).candidate(0)
                for prompts in (start.train.prompts, free)
            )
            log_proba = head.held_out(evidence, start.train.labels, reference)
            right = log_proba[np.arange(len(log_proba)), start.train.labels]
            losses.append(-right.mean())
        assert outcome.problem.words == DEFAULT_STARTS[int(np.argmin(losses))]
        assert outcome.options[0].z is None
        assert outcome.generations == 0
        # The development examples are asked about in the words that won.
        assert backend.requests[-1].prompts == outcome.problem.dev.prompts
        won.add(outcome.problem.words)
    assert won == set(DEFAULT_STARTS)
