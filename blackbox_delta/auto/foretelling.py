"""What the recipe will cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.views import DEMONSTRATIONS, View, demonstrated
from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.problem import Problem
from blackbox_delta.report import ASKED_AGAIN
from blackbox_delta.types import Usage


def foretell(asker: Asker, views: Sequence[View], problem: Problem, most: int) -> Forecast:
    """What a run will spend: if nothing pays beyond the pool, and if everything does.

    Args:
        asker: Knows what views cost.
        views: In the order in which they enter.
        problem: Whose test part is scored afterwards.
        most: Views that may be asked about a test example.

    Raises:
        ConfigError: The budget is in seconds, and nobody knows how fast the model answers.
    """
    budget = asker.budget.fresh()
    if budget.unit == "seconds":
        raise ConfigError(
            f"what a budget of {budget} buys cannot be predicted: it depends on how fast the "
            "model answers; give a budget in calls, queries, tokens or dollars"
        )
    needs = _needs_of_pool(asker, views, budget)
    pool = Cost.of(round(budget.calls), budget.usage, budget.prices)
    everything = _everything(asker, views, budget)
    baseline = _test(asker, views[0], problem)
    tests = [_test(asker, view, problem) for view in views[1 : len(needs)]]
    largest = sorted(tests, key=lambda need: need.tokens)[-most:]
    again = [_asked_again(asker, views[0], problem)]
    least, most_tested = (
        _cost([baseline, *more], again, budget) for more in (list[Need](), largest)
    )
    starts = (
        StartForecast(problem.words, spent, least, most_tested) for spent in (pool, everything)
    )
    return Forecast(tuple(starts), budget.exact_tokens)


def _needs_of_pool(asker: Asker, views: Sequence[View], budget: Budget) -> list[Need]:
    """What the views take that can enter if none drops out, charged to the budget."""
    needs: list[Need] = []
    for number, view in enumerate(views):
        need = asker.need(view, view.rows, references=number > 0)
        if not budget.affords(need):
            break
        budget.charge(need.usage, need.calls)
        needs.append(need)
        if number == 0:
            _charge_if_payable(budget, asker.need(view, view.rows[:0], references=True))
    return needs


def _everything(asker: Asker, views: Sequence[View], budget: Budget) -> Cost:
    """The whole budget, on queries as dear as they come after the first view.

    A view that drops out of the race makes room for others, maybe dearer ones, and for parts of
    some.
    """
    spent = budget.fresh()
    first = asker.need(views[0], views[0].rows, references=False)
    spent.charge(first.usage, first.calls)
    dearest = max(_needs_of_all(asker, views), key=lambda need: need.tokens / need.queries)
    n = dearest.queries
    one = Need("a query", 0, 1, ceil(dearest.tokens / n), ceil(dearest.output_tokens / n))
    for need in (dearest, one):
        while spent.affords(need):
            spent.charge(need.usage, need.calls)
    return Cost.of(round(spent.calls), spent.usage, spent.prices)


def _needs_of_all(asker: Asker, views: Sequence[View]) -> list[Need]:
    """Every view's, those of further rounds of demonstrations included."""
    shown: list[View] = []
    if any(view.kind == DEMONSTRATIONS for view in views):
        rng = np.random.default_rng(0)
        starts = [view.start for view in views if view.start is not None]
        rounds = (demonstrated(asker.backend, start, rng, 1) for start in starts)
        shown = [view for each in rounds for view in each]
    return [asker.need(view, view.rows, references=False) for view in (*views, *shown)]


def _charge_if_payable(budget: Budget, need: Need) -> None:
    if need.queries and budget.affords(need):
        budget.charge(need.usage, need.calls)


def _test(asker: Asker, view: View, problem: Problem) -> Need:
    prompts = view.reader.prompts(problem.test.examples)
    return asker.need_of(view, prompts, "the test part")


def _asked_again(asker: Asker, view: View, problem: Problem) -> Need:
    """A few questions put to a server twice, to see whether it is steady."""
    again = ASKED_AGAIN if asker.backend.address else 0
    prompts = view.reader.prompts(problem.test.examples[:again])
    return asker.need_of(view, prompts, "questions put again")


def _cost(passes: Sequence[Need], more: Sequence[Need], budget: Budget) -> Cost:
    usage = sum((need.usage for need in (*passes, *more)), Usage())
    return Cost.of(len(passes) if usage.queries else 0, usage, budget.prices)
