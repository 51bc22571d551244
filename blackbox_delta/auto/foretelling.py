"""What the recipe will cost, before anything is sent."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil

import numpy as np

from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.views import View, demonstrated
from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.problem import Problem
from blackbox_delta.report import asked_again
from blackbox_delta.types import Usage


def foretell(
    asker: Asker,
    views: Sequence[View],
    problem: Problem,
    most: int,
    *,
    rounds: bool,
    rewriting: Need | None,
) -> Forecast:
    """What a run will spend: if nothing pays beyond the pool, and if everything does.

    Args:
        asker: Knows what views cost.
        views: In the order in which they enter.
        problem: Whose test part is scored afterwards.
        most: Views that may be asked about a test example.
        rounds: Whether rounds of demonstrations may follow the pool.
        rewriting: What it takes to have the model propose words, where it may be asked to.

    Raises:
        ConfigError: The budget is in seconds, and nobody knows how fast the model answers.
    """
    budget = asker.budget
    if budget.unit == "seconds":
        raise ConfigError(
            f"what a budget of {budget} buys cannot be predicted: it depends on how fast the "
            "model answers; give a budget in calls, queries, tokens or dollars"
        )
    pool = _pool(asker, views, budget)
    every = _every_kind(asker, views) if rounds else list(views)
    needs = [asker.need(view, view.rows, references=False) for view in every]
    after_first = _charged(budget, needs[0].usage)
    everything = _everything(needs, rewriting, after_first)
    tests = [_test(asker, view, problem) for view in every]
    once = _once(asker, views[0], tests[0], problem)
    members, answering = _answering(needs, tests, after_first, most)
    calls = 1 if once.queries else 0
    least = Cost.of(calls, once, budget.prices)
    most_tested = Cost.of(calls * (1 + members), once + answering, budget.prices)
    starts = (
        StartForecast(problem.words, spent, least, most_tested) for spent in (pool, everything)
    )
    return Forecast(tuple(starts), budget.exact_tokens)


def _pool(asker: Asker, views: Sequence[View], budget: Budget) -> Cost:
    """What the views take that can enter if none drops out."""
    spent = budget.fresh()
    for number, view in enumerate(views):
        need = asker.need(view, view.rows, references=number > 0)
        if not spent.affords(need):
            break
        spent.charge(need.usage, need.calls)
        if number == 0:
            _charge_if_payable(spent, asker.need(view, view.rows[:0], references=True))
    return Cost.of(round(spent.calls), spent.usage, spent.prices)


def _everything(needs: Sequence[Need], rewriting: Need | None, after_first: Budget) -> Cost:
    """The whole budget, on queries as dear as they come after the first view.

    A view that drops out of the race makes room for others, maybe dearer ones, and for parts of
    some.
    """
    spent = _charged(after_first, after_first.usage)
    dearest = max(needs, key=_tokens_a_query)
    if rewriting is not None and _tokens_a_query(rewriting) > _tokens_a_query(dearest):
        _charge_if_payable(spent, rewriting)
    n = dearest.queries
    one = Need("a query", 0, 1, ceil(dearest.tokens / n), ceil(dearest.output_tokens / n))
    for need in (dearest, one):
        _spend_on(need, spent)
    return Cost.of(round(spent.calls), spent.usage, spent.prices)


def _answering(
    needs: Sequence[Need], tests: Sequence[Need], after_first: Budget, most: int
) -> tuple[int, Usage]:
    """How many views may answer beside the baseline, and what that takes at most.

    Rounds and searches bring more views of a kind, so the dearest may be there as often as the
    budget pays for them, and for a part of one more.
    """
    spent = after_first.usage
    counts = [_spend_on(need, _charged(after_first, spent), most) for need in needs]
    members = max(counts)
    pairs = [(min(members, count + 1), test) for count, test in zip(counts, tests, strict=True)]
    tokens = max(count * test.tokens for count, test in pairs)
    written = members * max(test.output_tokens for test in tests)
    return members, Usage(members * tests[0].queries, tokens, output_tokens=written)


def _spend_on(need: Need, budget: Budget, most: int = 2**40) -> int:
    """How often the budget pays for something, one after another; it is charged with that."""

    def too_often(times: int) -> bool:
        return not budget.affords(need.times(times, need.what))

    bought = 0
    # What a budget keeps back of estimated costs is for the next of them alone, so there is more.
    while times := bisect_left(range(1, most - bought + 1), True, key=too_often):
        budget.charge(need.times(times, need.what).usage, calls=0)
        bought += times
    return bought


def _charged(budget: Budget, usage: Usage) -> Budget:
    """Such a budget of which so much is spent."""
    spent = budget.fresh()
    spent.charge(usage, calls=0)
    return spent


def _tokens_a_query(need: Need) -> float:
    return need.tokens / need.queries


def _every_kind(asker: Asker, views: Sequence[View]) -> list[View]:
    """All views, and one of each kind that further rounds of demonstrations may bring."""
    rng = np.random.default_rng(0)
    starts = [view.start for view in views if view.start is not None]
    rounds = (demonstrated(asker.backend, start, rng, 1) for start in starts)
    return [*views, *(view for each in rounds for view in each)]


def _charge_if_payable(budget: Budget, need: Need) -> None:
    if need.queries and budget.affords(need):
        budget.charge(need.usage, need.calls)


def _test(asker: Asker, view: View, problem: Problem) -> Need:
    prompts = view.reader.prompts(problem.test.examples)
    return asker.need_of(view, prompts, "the test part")


def _once(asker: Asker, first: View, baseline: Need, problem: Problem) -> Usage:
    """The baseline's answers, and a few questions put to a server twice: is it steady?"""
    prompts = first.reader.prompts(problem.test.examples[: asked_again(asker.backend)])
    return baseline.usage + asker.need_of(first, prompts, "questions put again").usage
