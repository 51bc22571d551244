"""Which learning rate: each is tried from the same start, and the development examples decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blackbox_delta.compare.contract import Step
from blackbox_delta.compare.gradients.questions import Questions
from blackbox_delta.compare.gradients.scoring import DivergedError, LabelScorer, cross_entropy
from blackbox_delta.compare.gradients.training import Plan, Tell, steps_of, train
from blackbox_delta.types import Json

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """What is trained on what.

    Attributes:
        name: What to call it.
        scorer: The model.
        parameters: What is trained in it.
        questions: Training and development examples.
        epochs: Passes over the training examples.
        weight_decay: Of weights.
        seed: Of the order of the examples, the same for every rate.
    """

    name: str
    scorer: LabelScorer
    parameters: Mapping[str, nn.Parameter]
    questions: Questions
    epochs: int
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Attempt:
    """What one learning rate reached.

    Attributes:
        rate: It.
        losses: Training loss of each epoch.
        dev_accuracy: Share of right answers on the development examples; ``None`` if not scored.
        dev_loss: Cross-entropy there, in nats; likewise.
        diverged: Whether the model answered them with no numbers.
    """

    rate: float
    losses: tuple[float, ...]
    dev_accuracy: float | None = None
    dev_loss: float | None = None
    diverged: bool = False

    def beats(self, other: Attempt | None) -> bool:
        """Whether it is better by accuracy, then by loss; not where equal."""
        return other is None or self._rank > other._rank

    @property
    def _rank(self) -> tuple[float, float]:
        return self.dev_accuracy or 0.0, -(self.dev_loss or 0.0)

    def record(self) -> Json:
        """Ready for JSON."""
        return {
            "learning_rate": self.rate,
            "dev_accuracy": self.dev_accuracy,
            "dev_loss": self.dev_loss,
            "final_train_loss": None if self.diverged else self.losses[-1],
            "diverged": self.diverged,
        }


def best_rate(job: Job, rates: Sequence[float], step: Step) -> tuple[Attempt, list[Attempt]]:
    """Trains with each rate; the best attempt, whose state the model is left in, and all.

    With a single rate the development examples are not scored.

    Raises:
        DivergedError: Training diverged with every one of several rates.
    """
    search = len(rates) > 1
    start = _state(job.parameters) if search else {}
    best, kept, attempts = None, start, []
    for number, rate in enumerate(rates):
        _restore(job.parameters, start)
        plan = Plan(rate, job.epochs, job.weight_decay, job.seed)
        tell = _teller(job, step, number, len(rates), rate)
        losses = train(job.scorer, job.parameters, job.questions.train, plan, tell)
        attempt = _judged(job, rate, losses) if search else Attempt(rate, losses)
        attempts.append(attempt)
        if not attempt.diverged and attempt.beats(best):
            best, kept = attempt, _state(job.parameters) if search else {}
    if best is None:
        tried = ", ".join(f"{rate:g}" for rate in rates)
        raise DivergedError(f"training diverged with every learning rate that was tried: {tried}")
    _restore(job.parameters, kept)
    return best, attempts


def _judged(job: Job, rate: float, losses: tuple[float, ...]) -> Attempt:
    dev = job.questions.dev
    try:
        log_proba = job.scorer.read(dev.prompts)
    except DivergedError:
        return Attempt(rate, losses, diverged=True)
    accuracy = float(np.mean(log_proba.argmax(axis=1) == dev.labels))
    return Attempt(rate, losses, accuracy, cross_entropy(log_proba, dev.labels))


def _teller(job: Job, step: Step, number: int, rates: int, rate: float) -> Tell:
    """Turns optimizer steps into a share of all the work; reading the answers is the last bit."""
    steps = steps_of(len(job.questions.train), job.epochs)
    done = number * steps

    def tell(loss: float) -> None:
        nonlocal done
        done += 1
        share = done / (rates * steps + 1)
        step(share, f"{job.name}, learning rate {rate:g}: loss {loss:.3f}")

    return tell


def _state(parameters: Mapping[str, nn.Parameter]) -> State:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _restore(parameters: Mapping[str, nn.Parameter], state: State) -> None:
    """Puts back what ``state`` holds."""
    for name, value in state.items():
        parameters[name].copy_(value)
