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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from blackbox_delta.budget import Budget, Need
from blackbox_delta.heads import make_head
from blackbox_delta.history import History
from blackbox_delta.objectives import make_objective
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.problem import Frame, Part, Problem, top_k
from blackbox_delta.settings import Settings
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    Example,
    FittedHead,
    Head,
    Optimizer,
    Vector,
)

#: Generations between two looks at the optimizer's mean; a look costs two calls.
CHECK_EVERY = 4
#: A tuned delta must beat the untuned one on the development set by this many standard errors.
MARGIN = 1.0


@dataclass(frozen=True)
class Option:
    """One way to answer: a delta (or none) behind a fitted head.

    Attributes:
        name: ``"calibrated"``, ``"head"`` or ``"delta"``.
        z: (d,) of the delta; ``None`` where there is none.
        head: The fitted output side.
        dev_losses: (m,) negative log-probability of each development example's label.
        dev_accuracy: Share of right answers on the development examples.
        train_loss: The objective on the training examples, held out.
    """

    name: str
    z: Vector | None
    head: FittedHead
    dev_losses: Vector
    dev_accuracy: float
    train_loss: float

    @property
    def dev_loss(self) -> float:
        """Mean development loss."""
        return float(self.dev_losses.mean())


@dataclass
class Seconds:
    """Where the time went."""

    optimizer: float = 0.0
    head: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What an observer is told after every step.

    Attributes:
        generation: Generations finished.
        best_loss: Lowest training loss so far.
        dev_accuracy: Of the best option so far.
        budget: What was spent.
    """

    generation: int
    best_loss: float
    dev_accuracy: float
    budget: Budget


Observer = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        chosen: What the tuned model answers with.
        options: Everything it was chosen from, the untuned ones first.
        generations: Generations of the search.
        seconds: Time outside the backend.
    """

    chosen: Option
    options: list[Option]
    generations: int
    seconds: Seconds = field(default_factory=Seconds)


class _Look(NamedTuple):
    """What the model said about the labelled examples under one z."""

    train: Evidence
    reference: Evidence | None
    dev: Evidence


class Tuner:
    """Tunes one problem on one backend within one budget.

    Args:
        backend: The model; wrapped in a journal if the run is to be resumable.
        problem: The task as put to it.
        settings: How to search.
        budget: Its only owner; everything the search asks is charged to it.
        history: Takes one record per generation.
        observer: Told after every step.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        settings: Settings,
        budget: Budget,
        history: History | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._backend = backend
        self._problem = problem
        self._settings = settings
        self._budget = budget
        self._history = history
        self._observer = observer
        self._head: Head = make_head(settings.head)
        self._top_k = top_k(self._head, backend)
        self._objective = make_objective(settings.objective)
        self._seconds = Seconds()
        self._best_loss = float("inf")
        self._generation = 0
        self._generation_needs: tuple[Need, ...] = ()
        self._reference = problem.reader.prompts(
            [
                Example(text, "" if problem.reader.template.uses_pair else None)
                for text in self._head.content_free
            ]
        )

    def run(self) -> Outcome:
        """Searches until the budget is spent and chooses.

        Raises:
            BudgetError: The budget cannot pay for the untuned model and one generation; raised
                before anything is spent.
            BackendError: A reply failed; what was paid for stays in the journal.
        """
        self._check_budget()
        options = self._untuned_options()
        if self._problem.frame is not None:
            self._search(self._problem.frame, options)
        return Outcome(choose(options), options, self._generation, self._seconds)

    # ------------------------------------------------------------------ the search

    def _search(self, frame: Frame, options: list[Option]) -> None:
        optimizer = self._optimizer(frame)
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
        losses = self._losses(frame.candidates(z))
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

    def _untuned_options(self) -> list[Option]:
        """The untuned model behind the calibrated head and behind the chosen one."""
        z = self._problem.start
        heads = {"calibrated": make_head("calibrated"), "head": self._head}
        seen = self._look(z)
        return [self._judged(name, z, head, seen) for name, head in heads.items()]

    def _look(self, z: Vector | None) -> _Look:
        """Scores one z afresh on the training and the development examples."""
        delta = self._problem.delta(z)
        [(train, reference)] = self._score(self._problem.train, delta)
        [(dev, _)] = self._score(self._problem.dev, delta, reference=False)
        return _Look(train, reference, dev)

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
        request = self._problem.request([*part.prompts, *extra], delta, self._top_k)
        scores = self._backend.score(request)
        self._budget.charge(scores.usage, calls=request.candidates)
        n = len(part)
        return [
            (evidence.select(slice(n)), evidence.select(slice(n, None)) if extra else None)
            for evidence in scores
        ]

    def _call(self, part: Part, *, reference: bool = True) -> Need:
        """What one candidate on ``part`` costs."""
        prompts = [*part.prompts, *(self._reference if reference else [])]
        frame = self._problem.frame
        delta = self._problem.delta(np.zeros(frame.subspace.dimension) if frame else None)
        tokens = self._backend.count_tokens(self._problem.request(prompts, delta, 0))
        return Need("one call", 1, len(prompts), int(tokens.sum()))

    def _check_budget(self) -> None:
        train = self._call(self._problem.train)
        dev = self._call(self._problem.dev, reference=False)
        self._generation_needs = (
            train.times(self._settings.population, "one generation"),
            train.times(1, "a look at its mean"),
            dev.times(1, "that mean on the development examples"),
        )
        untuned = (
            train.times(1, "the untuned model on the training examples"),
            dev.times(1, "on the development examples"),
        )
        searching = self._problem.frame is not None
        self._budget.require(*untuned, *(self._generation_needs if searching else ()))

    # ------------------------------------------------------------------ book-keeping

    def _optimizer(self, frame: Frame) -> Optimizer:
        settings = self._settings
        return make_optimizer(
            settings.optimizer,
            frame.subspace.dimension,
            seed=settings.seed,
            population=settings.population,
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
        if self._observer is not None:
            accuracy = choose(options).dev_accuracy
            self._observer(Progress(self._generation, self._best_loss, accuracy, self._budget))


def choose(options: list[Option]) -> Option:
    """The option to answer with, the simpler one unless the other is clearly better.

    A richer option replaces the one before it only if its development loss is lower by more than
    :data:`MARGIN` standard errors of the paired difference. Options of the same kind compete by
    their development loss alone.
    """
    chosen = options[0]
    for name in ("head", "delta"):
        rivals = [option for option in options if option.name == name]
        if rivals:
            rival = min(rivals, key=lambda option: option.dev_loss)
            gains = chosen.dev_losses - rival.dev_losses
            error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
            if gains.mean() > MARGIN * error:
                chosen = rival
    return chosen
