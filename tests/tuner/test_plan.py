"""When stages begin and end, by arithmetic alone."""

from __future__ import annotations

import pytest

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import BudgetError
from blackbox_delta.tuner.plan import Course, Steps


def need(calls: int) -> Need:
    return Need("calls", calls, 16 * calls, 100 * calls)


def generations(limit: int, stages: int, population: int) -> list[int] | None:
    """How many each stage gets; ``None`` where the budget is refused."""
    budget = Budget(limit)
    steps = Steps(need(1), need(1), need(population), (need(1), need(1)))
    course = Course(budget, steps, stages)
    try:
        budget.require(need(1), need(1), *course.least)
    except BudgetError:
        return None
    budget.charge(need(2).usage, 2)
    counts, generation = [], 0
    for _ in course.stages():
        counts.append(0)
        while course.goes_on():
            budget.charge(need(population).usage, population)
            generation += 1
            counts[-1] += 1
            if course.look_is_due(generation):
                budget.charge(need(2).usage, 2)
    return counts


@pytest.mark.parametrize("population", [4, 10, 20])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_no_stage_goes_without_a_generation(stages: int, population: int) -> None:
    found = [generations(limit, stages, population) for limit in range(1, 400)]
    taken = [counts for counts in found if counts is not None]
    assert len(taken) > 200
    assert min(min(counts) for counts in taken) == 1
    # What a little budget gives to one, a large one divides evenly.
    last = taken[-1]
    assert max(last) - min(last) <= 1 + max(last) // 4
