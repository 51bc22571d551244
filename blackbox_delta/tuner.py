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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blackbox_delta._tuner_outcome import Option, Outcome, Seconds, choose
from blackbox_delta.budget import Budget, Need
from blackbox_delta.heads import make_head
from blackbox_delta.history import History
from blackbox_delta.objectives import make_objective
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.problem import Frame, Part, Problem, ask
from blackbox_delta.settings import Settings
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    Example,
    Head,
    Optimizer,
    Vector,
)

__all__ = ["Observer", "Option", "Outcome", "Progress", "Seconds", "Tuner", "choose"]

#: Generations between two looks at the optimizer's mean; a look costs two calls.
CHECK_EVERY = 4


@dataclass(frozen=True)
class Progress:
    """What an observer is told after every step.

    Attributes:
        generation: Generations finished.
        best_loss: Lowest training loss so far.
        dev_accuracy: Of the best option so far.
        budget: What was spent.
        tested: Test examples scored, once the search is over.
        to_test: Test examples to be scored, counted once for each delta.
    """

    generation: int
    best_loss: float
    dev_accuracy: float
    budget: Budget
    tested: int = 0
    to_test: int = 0


Observer = Callable[[Progress], None]


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
        budget: Its only owner; everything the search asks is charged to it.
        observer: Told after every generation.

    Raises:
        ConfigError: The head, the objective or the optimizer makes no sense.
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
        self._head: Head = make_head(settings.head, backend.capabilities.max_top_k)
        self._objective = make_objective(settings.objective)
        self._seconds = Seconds()
        self._best_loss = float("inf")
        self._dev_accuracy = 0.0
        self._generation = 0
        self._reference = problem.reader.prompts(
            [
                Example(text, "" if problem.reader.template.uses_pair else None)
                for text in self._head.content_free
            ]
        )
        self._generation_needs: tuple[Need, ...] = ()
        self._check_budget()
        self._optimizer = None if problem.frame is None else self._make_optimizer(problem.frame)

    def run(self, backend: Backend, history: History | None = None) -> Outcome:
        """Searches until the budget is spent and chooses.

        Args:
            backend: The same model, wrapped in a journal if the run is to be resumable.
            history: Takes one record per generation.

        Raises:
            BackendError: A reply failed; what was paid for stays in the journal.
        """
        self._backend, self._history = backend, history
        train, reference = self._choose_start()
        self._generation_needs = self._needs_of_generation(self._problem)
        options = self._untuned_options(train, reference)
        if self._problem.frame is not None and self._optimizer is not None:
            self._search(self._problem.frame, self._optimizer, options)
        chosen = choose(options)
        self._dev_accuracy = chosen.dev_accuracy
        return Outcome(self._problem, chosen, options, self._generation, self._seconds)

    # ------------------------------------------------------------------ the search

    def _search(self, frame: Frame, optimizer: Optimizer, options: list[Option]) -> None:
        while self._budget.affords(*self._generation_needs):
            self._generation += 1
            losses = self._one_generation(frame, optimizer)
            last = not self._budget.affords(*self._generation_needs)
            checked = last or self._generation % CHECK_EVERY == 0
            if checked:
                mean = optimizer.mean
                options.append(self._judged("delta", mean, self._head, self._look(mean)))
            self._record(losses, options[-1] if checked else None)
            self._tell_observer(options)

    def _one_generation(self, frame: Frame, optimizer: Optimizer) -> Vector:
        z = self._timed(lambda: optimizer.ask(optimizer.population))
        losses = self._losses(self._timed(lambda: frame.candidates(z)))
        self._timed(lambda: optimizer.tell(z, losses))
        self._best_loss = min(self._best_loss, float(losses.min()))
        return losses

    def _losses(self, delta: DeltaBatch) -> Vector:
        """(λ,) held-out training losses, each through a head of its own."""
        train = self._problem.train
        scored = self._score(train, delta)
        began = time.perf_counter()
        losses = [self._held_out_loss(evidence, reference) for evidence, reference in scored]
        self._seconds.head += time.perf_counter() - began
        return np.array(losses)

    def _held_out_loss(self, evidence: Evidence, reference: Evidence | None) -> float:
        labels = self._problem.train.labels
        return self._objective(self._head.held_out(evidence, labels, reference), labels)

    # ------------------------------------------------------------------ options

    def _choose_start(self) -> tuple[Evidence, Evidence | None]:
        """Begins with the start of the lowest held-out training loss; returns its evidence."""
        starts = (self._problem, *self._problem.rivals)
        seen = [self._score(start.train, start.delta(start.start))[0] for start in starts]
        losses = [self._held_out_loss(*evidence) for evidence in seen]
        best = int(np.argmin(losses))
        self._problem = starts[best]
        return seen[best]

    def _untuned_options(self, train: Evidence, reference: Evidence | None) -> list[Option]:
        """The untuned model behind the calibrated head and behind the chosen one."""
        z = self._problem.start
        heads = {"calibrated": make_head("calibrated"), "head": self._head}
        seen = _Look(train, reference, self._dev_evidence(z))
        return [self._judged(name, z, head, seen) for name, head in heads.items()]

    def _look(self, z: Vector) -> _Look:
        """Scores one z afresh on the training and the development examples."""
        [(train, reference)] = self._score(self._problem.train, self._problem.delta(z))
        return _Look(train, reference, self._dev_evidence(z))

    def _dev_evidence(self, z: Vector | None) -> Evidence:
        [(dev, _)] = self._score(self._problem.dev, self._problem.delta(z), reference=False)
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

    def _score(
        self, part: Part, delta: DeltaBatch | None, *, reference: bool = True
    ) -> list[tuple[Evidence, Evidence | None]]:
        """Evidence on ``part`` under each candidate, and on the content-free texts."""
        extra = self._reference if reference else []
        request = self._problem.request([*part.prompts, *extra], delta, self._head.top_k)
        scores = ask(self._backend, request)
        self._budget.charge(scores.usage, calls=request.candidates)
        n = len(part)
        return [
            (evidence.select(slice(n)), evidence.select(slice(n, None)) if extra else None)
            for evidence in scores
        ]

    def _calls(self, problem: Problem, z: Vector | None) -> tuple[Need, Need]:
        """What one candidate costs on the training and on the development examples."""
        delta = problem.delta(z)
        parts = ([*problem.train.prompts, *self._reference], problem.dev.prompts)
        requests = [problem.request(prompts, delta, 0) for prompts in parts]
        train, dev = (
            Need("one call", 1, request.queries, int(self._backend.count_tokens(request).sum()))
            for request in requests
        )
        return train, dev

    def _check_budget(self) -> None:
        """Checks that every start, the dearest one's generation and its look can be paid."""
        starts = (self._problem, *self._problem.rivals)
        calls = [self._calls(start, start.start) for start in starts]
        searches = [self._needs_of_generation(start) for start in starts]
        self._budget.require(
            *(train.times(1, "the untuned model on the training examples") for train, _ in calls),
            max((dev for _, dev in calls), key=_tokens).times(1, "on the development examples"),
            *max(searches, key=lambda needs: sum(map(_tokens, needs))),
        )

    def _needs_of_generation(self, problem: Problem) -> tuple[Need, ...]:
        """What a generation and the look after it take; nothing where nothing is searched."""
        if problem.frame is None:
            return ()
        train, dev = self._calls(problem, np.zeros(problem.frame.subspace.dimension))
        return (
            train.times(self._settings.population, "one generation"),
            train.times(1, "a look at its mean"),
            dev.times(1, "that mean on the development examples"),
        )

    # ------------------------------------------------------------------ book-keeping

    def _make_optimizer(self, frame: Frame) -> Optimizer:
        settings = self._settings
        call, _ = self._calls(self._problem, np.zeros(frame.subspace.dimension))
        return make_optimizer(
            settings.optimizer,
            frame.subspace.dimension,
            seed=settings.seed,
            population=settings.population,
            budget_candidates=self._budget.most_calls(call),
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


def _tokens(need: Need) -> int:
    return need.tokens
