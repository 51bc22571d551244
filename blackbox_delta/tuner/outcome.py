"""What a run tells on its way, what it found, and how it chooses what to answer with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from blackbox_delta.budget import Budget
from blackbox_delta.members import Found, Member
from blackbox_delta.problem import Problem
from blackbox_delta.types import FittedHead, Vector

#: A richer option must beat the simpler one on the development set by this many standard errors.
MARGIN = 1.0


@dataclass(frozen=True)
class Progress:
    """What an observer is told after every step.

    Attributes:
        generation: Generations finished.
        best_loss: Lowest training loss so far.
        dev_accuracy: Of the best option so far.
        budget: What was spent.
        tested: Test examples scored, once the search is over.
        to_test: Test examples to be scored, counted once for each way of asking.
        what: ``"generations"``, or what else is counted.
    """

    generation: int
    best_loss: float
    dev_accuracy: float
    budget: Budget
    tested: int = 0
    to_test: int = 0
    what: Literal["generations", "views"] = "generations"


Observer = Callable[[Progress], None]


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
class Outcome:
    """What a run found.

    Attributes:
        problem: The task, with the start that the search began from.
        chosen: What the tuned model answers with.
        options: Everything it was chosen from, the untuned ones first.
        generations: Generations of the search.
        seconds: Time outside the backend.
    """

    problem: Problem
    chosen: Option
    options: list[Option]
    generations: int
    seconds: Seconds = field(default_factory=Seconds)

    @property
    def found(self) -> Found:
        """The same in the words that all recipes share."""
        problem, baseline, chosen = self.problem, self.options[0], self.chosen
        details = {
            "template": problem.reader.template.source,
            "start": problem.words,
            "delta": None if problem.frame is None else problem.frame.described(),
            "chosen": chosen.name,
            "head": chosen.head.kind,
            "baseline_dev_accuracy": baseline.dev_accuracy,
            "dev_accuracy": chosen.dev_accuracy,
            "dev_n": len(problem.dev),
            "generations": self.generations,
        }
        return Found(
            self._member(baseline),
            (self._member(chosen),),
            details,
            optimizer_seconds=self.seconds.optimizer,
            head_seconds=self.seconds.head,
        )

    def _member(self, option: Option) -> Member:
        problem = self.problem
        return Member(option.name, problem.reader, option.head, frame=problem.frame, z=option.z)


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
