"""What a run asks for and what that takes: followed by the run itself and by its forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.probing import PROBED, PROBES
from blackbox_delta.problem import Problem
from blackbox_delta.report import asked_again
from blackbox_delta.types import Backend, Head, Prompt, Usage, Vector

#: Generations between two looks at the optimizer's mean; a look costs two calls.
CHECK_EVERY = 4
#: The most that probing may take of the budget.
PROBING_SHARE = 0.1


@dataclass(frozen=True)
class Steps:
    """What each step of a run takes, once it has begun with one of the starts.

    Attributes:
        start: The untuned model on the training examples.
        development: The untuned model on the development examples.
        generation: λ candidates on the training examples; ``None`` where nothing is searched.
        look: The optimizer's mean, on the training and on the development examples; one call each.
        probes: The first steps of a search, on the training examples.
    """

    start: Need
    development: Need
    generation: Need | None = None
    look: tuple[Need, ...] = ()
    probes: Need | None = None

    @property
    def search(self) -> tuple[Need, ...]:
        """A generation and the look after it."""
        return () if self.generation is None else (self.generation, *self.look)


class Course:
    """When a search probes, goes on, looks at the optimizer's mean and begins the next stage.

    Args:
        budget: What is left of it decides.
        steps: What a generation and a look take.
        stages: How many there are; each has an equal share of the budget, and a generation at
            least, whatever the last one of those before took beyond theirs.
    """

    def __init__(self, budget: Budget, steps: Steps, stages: int = 1) -> None:
        self._budget = budget
        self._steps = steps
        self._stages = stages
        self._stage = 0
        self._until: float | None = None

    def stages(self) -> Iterator[int]:
        """The number of each stage, when it begins."""
        for stage in range(self._stages):
            self._stage, self._until = stage, None
            yield stage

    @property
    def probes(self) -> tuple[Need, ...]:
        """What probing takes as a stage begins; nothing where that would be too much."""
        probes = self._steps.probes
        if probes is None:
            return ()
        most = self._budget.most_calls(self._steps.look[0])
        dear = most is not None and PROBING_SHARE * most < self._stages * probes.calls
        return () if dear else (probes,)

    @property
    def least(self) -> tuple[Need, ...]:
        """What the shortest search of all stages takes."""
        return self._shortest(self._stages)

    def _shortest(self, stages: int) -> tuple[Need, ...]:
        return (*self.probes, *self._steps.search) * stages

    def goes_on(self) -> bool:
        """Whether another generation of this stage, and a look after it, can be paid.

        What the stages after it need at least is left to them.
        """
        spent = self._budget.fraction_spent
        if self._until is None:
            # A stage may begin beyond its share; its first generation is its own all the same.
            share = (self._stage + 1) / self._stages
            self._until = max(share, math.nextafter(spent, math.inf))
        if not self._steps.search or spent >= self._until:
            return False
        after = self._shortest(self._stages - 1 - self._stage)
        return self._budget.affords(*self._steps.search, *after)

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
        probing: Whether the first steps are to be probed.

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
        *,
        probing: bool = False,
    ) -> None:
        self._backend = backend
        self._population = population
        self._head = head
        self._probing = probing
        self.starts = tuple(starts)
        self.steps = tuple(self._steps(start) for start in starts)

    def require(self, budget: Budget) -> None:
        """Checks that every start, the dearest one's generation and its look can be paid.

        Raises:
            BudgetError: They cannot.
        """
        least = [
            self.course(budget, start, steps).least
            for start, steps in zip(self.starts, self.steps, strict=True)
        ]
        budget.require(
            *(steps.start for steps in self.steps),
            max((steps.development for steps in self.steps), key=_tokens),
            *max(least, key=lambda needs: sum(map(_tokens, needs))),
        )

    def course(self, budget: Budget, start: Problem, steps: Steps) -> Course:
        """The course of a search from one of the starts."""
        return Course(budget, steps, 1 if start.frame is None else len(start.frame.parts))

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
                self._search(budget.fresh(), start, steps),
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
            train.times(1 + len(PROBED) * PROBES, "probing its steps") if self._probing else None,
        )

    def _search(self, budget: Budget, start: Problem, steps: Steps) -> Cost:
        _spend(budget, *(each.start for each in self.steps), steps.development)
        course, generation = self.course(budget, start, steps), 0
        for _ in course.stages():
            _spend(budget, *course.probes)
            while steps.generation is not None and course.goes_on():
                _spend(budget, steps.generation)
                generation += 1
                if course.look_is_due(generation):
                    _spend(budget, *steps.look)
        return Cost.of(round(budget.calls), budget.usage, budget.prices, generation)

    def _test(self, budget: Budget, problem: Problem, kept: Vector | None) -> Cost:
        if not len(problem.test):
            return Cost.of(0, Usage(), budget.prices)
        passes = passes_over_test(problem, kept)
        needs = [self._call(problem, problem.test.prompts, z) for z in passes]
        # A server is asked a few of the baseline's questions twice: is it steady?
        if again := problem.test.prompts[: asked_again(self._backend)]:
            needs.append(self._call(problem, again, problem.start))
        usage = sum((need.usage for need in needs), Usage())
        return Cost.of(len(passes), usage, budget.prices)

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
