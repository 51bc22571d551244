"""What a run asks for and what that takes: followed by the run itself and by its forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.problem import Problem
from blackbox_delta.types import Backend, Head, Prompt, Usage, Vector

#: Generations between two looks at the optimizer's mean; a look costs two calls.
CHECK_EVERY = 4


@dataclass(frozen=True)
class Steps:
    """What each step of a run takes, once it has begun with one of the starts.

    Attributes:
        start: The untuned model on the training examples.
        development: The untuned model on the development examples.
        generation: λ candidates on the training examples; ``None`` where nothing is searched.
        look: The optimizer's mean, on the training and on the development examples; one call each.
    """

    start: Need
    development: Need
    generation: Need | None = None
    look: tuple[Need, ...] = ()

    @property
    def search(self) -> tuple[Need, ...]:
        """A generation and the look after it."""
        return () if self.generation is None else (self.generation, *self.look)


class Course:
    """When a search goes on, and when it looks at the optimizer's mean.

    Args:
        budget: What is left of it decides.
        steps: What a generation and a look take.
    """

    def __init__(self, budget: Budget, steps: Steps) -> None:
        self._budget = budget
        self._steps = steps

    def goes_on(self) -> bool:
        """Whether another generation, and a look after it, can be paid."""
        return bool(self._steps.search) and self._budget.affords(*self._steps.search)

    def look_is_due(self, generation: int) -> bool:
        """Whether to look after that generation: now and then, and after the last one.

        Lost queries may have used up what was left for it. Time is no reason to leave it out: what
        the generations found would be lost.
        """
        payable = self._budget.unit == "seconds" or self._budget.affords(*self._steps.look)
        return payable and (generation % CHECK_EVERY == 0 or not self.goes_on())


def passes_over_test(problem: Problem, kept: Vector | None) -> list[Vector | None]:
    """Each z that the test part is scored under: the untuned model's, and the kept delta's."""
    return [problem.start] if kept is None else [problem.start, kept]


class Plan:
    """What the steps of a run take; asks nothing of the model.

    Args:
        backend: Counts the tokens.
        starts: What the run may begin with.
        population: λ.
        head: Its own texts go with the training examples.

    Attributes:
        starts: As given.
        steps: What the steps take with each of them.
    """

    def __init__(
        self,
        backend: Backend,
        starts: Sequence[Problem],
        population: int,
        head: Head,
    ) -> None:
        self._backend = backend
        self._population = population
        self._head = head
        self.starts = tuple(starts)
        self.steps = tuple(self._steps(start) for start in starts)

    def require(self, budget: Budget) -> None:
        """Checks that every start, the dearest one's generation and its look can be paid.

        Raises:
            BudgetError: They cannot.
        """
        budget.require(
            *(steps.start for steps in self.steps),
            max((steps.development for steps in self.steps), key=_tokens),
            *max(
                (steps.search for steps in self.steps), key=lambda needs: sum(map(_tokens, needs))
            ),
        )

    def forecast(self, budget: Budget) -> Forecast:
        """What a run with a budget of this size will spend.

        Raises:
            ConfigError: The budget is in seconds, and nobody knows how fast the model answers.
        """
        if budget.unit == "seconds":
            raise ConfigError(
                f"what a budget of {budget} buys cannot be predicted: it depends on how fast the "
                "model answers; give a budget in calls, queries, tokens or dollars"
            )
        starts = (
            StartForecast(
                start.words,
                self._search(budget.fresh(), steps),
                self._test(budget, start, None),
                self._test(budget, start, _somewhere(start)),
            )
            for start, steps in zip(self.starts, self.steps, strict=True)
        )
        return Forecast(tuple(starts), budget.exact_tokens)

    def _steps(self, problem: Problem) -> Steps:
        own = problem.reader.references(self._head)
        parts = ([*problem.train.prompts, *own], problem.dev.prompts)
        start, development = (self._call(problem, part, problem.start) for part in parts)
        untuned = (
            start.times(1, "the untuned model on the training examples"),
            development.times(1, "on the development examples"),
        )
        if problem.frame is None:
            return Steps(*untuned)
        train, dev = (self._call(problem, part, _somewhere(problem)) for part in parts)
        return Steps(
            *untuned,
            train.times(self._population, "one generation"),
            (
                train.times(1, "a look at its mean"),
                dev.times(1, "that mean on the development examples"),
            ),
        )

    def _search(self, budget: Budget, steps: Steps) -> Cost:
        _spend(budget, *(each.start for each in self.steps), steps.development)
        course, generation = Course(budget, steps), 0
        while steps.generation is not None and course.goes_on():
            _spend(budget, steps.generation)
            generation += 1
            if course.look_is_due(generation):
                _spend(budget, *steps.look)
        return Cost.of(round(budget.calls), budget.usage, budget.prices, generation)

    def _test(self, budget: Budget, problem: Problem, kept: Vector | None) -> Cost:
        passes = passes_over_test(problem, kept) if len(problem.test) else []
        needs = [self._call(problem, problem.test.prompts, z) for z in passes]
        usage = sum((need.usage for need in needs), Usage())
        return Cost.of(len(needs), usage, budget.prices)

    def _call(self, problem: Problem, prompts: Sequence[Prompt], z: Vector | None) -> Need:
        """One candidate on some prompts."""
        request = problem.request(prompts, problem.delta(z))
        tokens = int(self._backend.count_tokens(request).sum())
        written = request.queries * self._backend.capabilities.output_tokens
        return Need("one call", 1, request.queries, tokens, written)


def _somewhere(problem: Problem) -> Vector | None:
    """Any z; what a candidate costs does not depend on it."""
    return None if problem.frame is None else np.zeros(problem.frame.subspace.dimension)


def _spend(budget: Budget, *needs: Need) -> None:
    for need in needs:
        budget.charge(need.usage, need.calls)


def _tokens(need: Need) -> int:
    return need.tokens
