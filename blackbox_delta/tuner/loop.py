"""The loop: ask, project, score, lose, tell, and an honest choice at the end.

One direction every generation::

    optimizer.ask()  z (λ, d)  ->  subspace  θ (λ, D)  ->  delta  tensors (λ, …)
    ->  backend.score  (λ, n, c)  ->  head, objective  losses (λ,)  ->  optimizer.tell

The search sees the training examples alone. Now and then the optimizer's mean, which no lucky
draw can flatter, is scored afresh on the training and on the development examples. Whether
anything tuned is kept at all is decided at the end on the development examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import BudgetError, SpentError
from blackbox_delta.forecast import Forecast
from blackbox_delta.heads import make_head
from blackbox_delta.history import History
from blackbox_delta.objectives import make_objective
from blackbox_delta.optimizers import make_optimizer, try_out
from blackbox_delta.probing import PROBED, PROBES, SMALLEST, does_no_harm, probe_directions
from blackbox_delta.problem import Part, Problem, ask_within
from blackbox_delta.settings import Settings
from blackbox_delta.tuner.outcome import (
    Observer,
    Option,
    Outcome,
    Progress,
    Seconds,
    choose,
)
from blackbox_delta.tuner.plan import Course, Plan
from blackbox_delta.tuner.stages import Stage, stages_of
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    Head,
    Optimizer,
    Vector,
)

_T = TypeVar("_T")


class _Look(NamedTuple):
    """What the model said about the labelled examples under one z."""

    train: Evidence
    reference: Evidence | None
    dev: Evidence


class Tuner:
    """Tunes one problem on one backend within one budget, once.

    Making one checks all that can be checked beforehand and asks nothing of the model.

    Args:
        backend: The model: what it can do and what prompts cost.
        problem: The task as put to it.
        settings: How to search.
        budget: The tuner is its only owner: everything the search asks is charged to it.
        observer: Told after every generation.

    Raises:
        ConfigError: The head, the objective, the optimizer or the budget makes no sense.
        BudgetError: The budget cannot pay for the untuned model and one generation.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        settings: Settings,
        budget: Budget,
        observer: Observer | None = None,
    ) -> None:
        self._backend = backend
        self._problem = problem
        self._settings = settings
        self._budget = budget
        self._history: History | None = None
        self._observer = observer
        self._head: Head = make_head(settings.head_name, backend.capabilities.max_top_k)
        self._objective = make_objective(settings.objective)
        self._seconds = Seconds()
        self._best_loss = float("inf")
        self._dev_accuracy = 0.0
        self._generation = 0
        starts = (problem, *problem.rivals)
        budget.exact_tokens = backend.capabilities.exact_tokens
        probing = settings.scale is None
        self._plan = Plan(backend, starts, settings.population, self._head, probing=probing)
        self._steps = self._plan.steps[0]
        self._plan.require(budget)
        for stage in stages_of(problem.frame):
            try_out(self._make_optimizer(stage))  # what makes no sense is found now

    def forecast(self) -> Forecast:
        """What :meth:`run`, and the test after it, will spend if no query is lost; asks nothing.

        Raises:
            ConfigError: The budget is in seconds, and nobody knows how fast the model answers.
        """
        return self._plan.forecast(self._budget)

    def run(self, backend: Backend, history: History | None = None) -> Outcome:
        """Searches until the budget is spent and chooses.

        Args:
            backend: The same model, wrapped in a journal if the run is to be resumable.
            history: Takes one record per generation.

        Raises:
            BackendError: A reply failed; what was paid for stays in the journal.
            BudgetError: Replies were lost or cost more than was estimated, so that the budget ran
                out before there was anything to choose from.
        """
        self._backend, self._history = backend, history
        options = _unless_spent(self._untuned_options)
        if options is None:
            raise BudgetError(
                f"the budget of {self._budget} ran out before the untuned model was scored, for "
                f"{self._budget.usage.lost} replies were lost or the others cost more than was "
                "estimated; give a larger budget and another --out, with --cache and this run's "
                "journal.sqlite what is paid already is not paid again"
            )
        if self._problem.frame is not None:
            _unless_spent(lambda: self._search(options))
        chosen = choose(options)
        self._dev_accuracy = chosen.dev_accuracy
        return Outcome(self._problem, chosen, options, self._generation, self._seconds)

    # ------------------------------------------------------------------ the search

    def _search(self, options: list[Option]) -> None:
        """All stages, each from the best that is known when it begins.

        Raises:
            SpentError: Replies were lost, and the budget ran out over it.
        """
        course = self._plan.course(self._budget, self._problem, self._steps)
        stages = stages_of(self._problem.frame)
        for number in course.stages():
            stage = stages[number].beginning_at(_best(options))
            sigma = self._probed_step(stage) if course.probes else 1.0
            self._run_stage(course, stage, self._make_optimizer(stage, sigma), options)

    def _run_stage(
        self, course: Course, stage: Stage, optimizer: Optimizer, options: list[Option]
    ) -> None:
        while course.goes_on():
            losses = self._one_generation(stage, optimizer)
            self._generation += 1
            check = None
            if course.look_is_due(self._generation):
                check = _unless_spent(lambda: self._look_at(stage.whole(optimizer.mean)))
            options += [check] if check else []
            self._record(losses, check)
            self._tell_observer(options)

    def _probed_step(self, stage: Stage) -> float:
        """The largest probed step that does not clearly do harm."""
        dimension = stage.length
        directions = self._timed(lambda: probe_directions(dimension, self._settings.seed))
        steps = [sigma * directions for sigma in PROBED]
        z = stage.whole(np.concatenate([np.zeros((1, dimension)), *steps]))
        scored = self._score(self._problem.train, self._candidates(stage, z), "probe")
        before, *moved = (self._example_losses(*each) for each in scored)
        for place, sigma in enumerate(PROBED):
            losses = moved[place * PROBES : (place + 1) * PROBES]
            if does_no_harm(np.mean(losses, axis=0) - before):
                return sigma
        return SMALLEST

    def _one_generation(self, stage: Stage, optimizer: Optimizer) -> Vector:
        z = self._timed(lambda: optimizer.ask(optimizer.population))
        losses = self._losses(self._candidates(stage, stage.whole(z)))
        self._timed(lambda: optimizer.tell(z, losses))
        self._best_loss = min(self._best_loss, float(losses.min()))
        return losses

    def _candidates(self, stage: Stage, z: Vector) -> DeltaBatch:
        batch: DeltaBatch = self._timed(lambda: stage.frame.candidates(z))
        return batch

    def _losses(self, delta: DeltaBatch) -> Vector:
        """(λ,) held-out training losses, each through a head of its own."""
        train = self._problem.train
        scored = self._score(train, delta, "search")
        began = time.perf_counter()
        losses = [self._held_out_loss(evidence, reference) for evidence, reference in scored]
        self._seconds.head += time.perf_counter() - began
        return np.array(losses)

    def _held_out_loss(self, evidence: Evidence, reference: Evidence | None) -> float:
        labels = self._problem.train.labels
        return self._objective(self._head.held_out(evidence, labels, reference), labels)

    def _example_losses(self, evidence: Evidence, reference: Evidence | None) -> Vector:
        """(n,) held-out negative log-probabilities of the training examples' labels."""
        labels = self._problem.train.labels
        log_proba = self._head.held_out(evidence, labels, reference)
        return -log_proba[np.arange(len(labels)), labels]

    # ------------------------------------------------------------------ options

    def _choose_start(self) -> tuple[Evidence, Evidence | None]:
        """Begins with the start of the lowest held-out training loss; returns its evidence."""
        seen = []
        for start, steps in zip(self._plan.starts, self._plan.steps, strict=True):
            self._problem = start
            self._check_left(steps.start)
            seen += self._score(start.train, start.delta(start.start), "start")
        losses = [self._held_out_loss(*evidence) for evidence in seen]
        best = int(np.argmin(losses))
        self._problem, self._steps = self._plan.starts[best], self._plan.steps[best]
        return seen[best]

    def _untuned_options(self) -> list[Option]:
        """The untuned model behind the calibrated head and behind the chosen one."""
        train, reference = self._choose_start()
        z = self._problem.start
        heads = {"calibrated": make_head("calibrated"), "head": self._head}
        seen = _Look(train, reference, self._dev_evidence(z, self._steps.development))
        return [self._judged(name, z, head, seen) for name, head in heads.items()]

    def _look_at(self, z: Vector) -> Option:
        """Scores one z afresh on the training and the development examples."""
        _, development = self._steps.look
        [(train, reference)] = self._score(self._problem.train, self._problem.delta(z), "look")
        seen = _Look(train, reference, self._dev_evidence(z, development))
        return self._judged("delta", z, self._head, seen)

    def _dev_evidence(self, z: Vector | None, need: Need) -> Evidence:
        self._check_left(need)
        [(dev, _)] = self._score(self._problem.dev, self._problem.delta(z), "development")
        return dev

    def _judged(self, name: str, z: Vector | None, head: Head, seen: _Look) -> Option:
        train, reference, dev = seen
        labels = self._problem.train.labels
        fitted = head.fit(train, labels, reference)
        loss = self._objective(head.held_out(train, labels, reference), labels)
        log_proba = fitted.log_proba(dev)
        truth = self._problem.dev.labels
        right = log_proba.argmax(axis=1) == truth
        losses = -log_proba[np.arange(len(truth)), truth]
        return Option(name, z, fitted, losses, float(right.mean()), loss)

    # ------------------------------------------------------------------ asking the model

    def _check_left(self, need: Need) -> None:
        """Lost queries, or tokens beyond their estimate, may have used up what was kept for it.

        Raises:
            SpentError: They have.
        """
        if self._budget.unit != "seconds" and not self._budget.affords(need):
            raise SpentError(f"nothing is left for {need.what}", sent=0)

    def _score(
        self, part: Part, delta: DeltaBatch | None, purpose: str
    ) -> list[tuple[Evidence, Evidence | None]]:
        """Evidence on ``part`` under each candidate, and on the head's own texts.

        A head is fitted on the training examples alone, so the development examples go without.
        """
        problem, n = self._problem, len(part)
        own = problem.reader.references(self._head) if part is problem.train else []
        request = problem.request([*part.prompts, *own], delta, self._head.top_k, purpose)
        scores = ask_within(self._budget, self._backend, request, calls=request.candidates)
        return [
            (evidence.select(slice(n)), evidence.select(slice(n, None)) if own else None)
            for evidence in scores
        ]

    # ------------------------------------------------------------------ book-keeping

    def _make_optimizer(self, stage: Stage, sigma: float = 1.0) -> Optimizer:
        settings = self._settings
        call, _ = self._steps.look
        most = self._budget.most_calls(call)
        stages = len(stages_of(self._problem.frame))
        return make_optimizer(
            settings.optimizer,
            stage.length,
            seed=settings.seed,
            population=settings.population,
            sigma=sigma,
            budget_candidates=None if most is None else most // stages,
            parts=stage.parts,
        )

    def _timed(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds.optimizer += time.perf_counter() - began

    def _record(self, losses: Vector, check: Option | None) -> None:
        if self._history is None:
            return
        spent = self._budget
        record = {
            "generation": self._generation,
            "best_loss": float(losses.min()),
            "median_loss": float(np.median(losses)),
            "lowest_loss_so_far": self._best_loss,
            "calls": spent.calls,
            "queries": spent.usage.queries,
            "tokens": spent.usage.tokens,
            "backend_seconds": spent.usage.seconds,
            "optimizer_seconds": self._seconds.optimizer,
            "head_seconds": self._seconds.head,
        }
        if check is not None:
            record["mean_train_loss"] = check.train_loss
            record["mean_dev_loss"] = check.dev_loss
            record["mean_dev_accuracy"] = check.dev_accuracy
        self._history.append(record)

    def _tell_observer(self, options: list[Option]) -> None:
        self._dev_accuracy = choose(options).dev_accuracy
        self.tell_tested(0, 0)

    def tell_tested(self, tested: int, to_test: int) -> None:
        """Tells the observer how far the search, and after it the test, has come."""
        if self._observer is not None:
            loss, accuracy = self._best_loss, self._dev_accuracy
            self._observer(
                Progress(self._generation, loss, accuracy, self._budget, tested, to_test)
            )


def _best(options: list[Option]) -> Vector | None:
    """z of the lowest development loss behind the search's head; ``None`` for no delta."""
    rivals = [option for option in options if option.name != "calibrated"]
    return min(rivals, key=lambda option: option.dev_loss).z


def _unless_spent(work: Callable[[], _T]) -> _T | None:
    """What ``work`` finds; nothing if replies were lost and the budget ran out over it."""
    try:
        return work()
    except SpentError:
        return None
