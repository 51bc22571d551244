"""What the recipe will cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.views import View
from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.problem import Problem
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
    dearest = max(needs, key=lambda need: need.tokens)
    while budget.affords(dearest):  # rounds and searches that all pay
        budget.charge(dearest.usage, dearest.calls)
    everything = Cost.of(round(budget.calls), budget.usage, budget.prices)
    baseline = _test(asker, views[0], problem)
    tests = [_test(asker, view, problem) for view in views[1 : len(needs)]]
    largest = sorted(tests, key=lambda need: need.tokens)[-most:]
    least, most_tested = _cost([baseline], budget), _cost([baseline, *largest], budget)
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


def _charge_if_payable(budget: Budget, need: Need) -> None:
    if need.queries and budget.affords(need):
        budget.charge(need.usage, need.calls)


def _test(asker: Asker, view: View, problem: Problem) -> Need:
    prompts = view.reader.prompts(problem.test.examples)
    return asker.need_of(view, prompts, "the test part")


def _cost(needs: Sequence[Need], budget: Budget) -> Cost:
    usage = sum((need.usage for need in needs), Usage())
    return Cost.of(len(needs) if usage.queries else 0, usage, budget.prices)
