"""Gradient tuning as a method of the comparison."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

from blackbox_delta.compare.contract import Measured, Point, Step, Trial
from blackbox_delta.compare.gradients.adaptations import (
    ADAPTATIONS,
    VIRTUAL_TOKENS,
    Adapted,
    adapt,
)
from blackbox_delta.compare.gradients.opening import PRECISION, open_causal
from blackbox_delta.compare.gradients.questions import MAX_TOKENS, Questions, put
from blackbox_delta.compare.gradients.rates import Attempt, Job, best_rate
from blackbox_delta.compare.gradients.scoring import LabelScorer
from blackbox_delta.compare.gradients.training import BATCH, CLIP, WARM_UP, epochs_for, steps_of
from blackbox_delta.errors import ConfigError
from blackbox_delta.types import Json

#: Learning rates to choose from where the caller names none.
GRIDS: dict[str, tuple[float, ...]] = {
    "full": (1e-5, 3e-5, 1e-4),
    "lora": (5e-4, 1e-3, 2e-3),
    "prefix": (1e-3, 1e-2, 3e-2),
    "prompt": (1e-2, 3e-2, 1e-1),
    "bitfit": (1e-3, 3e-3, 1e-2),
}
#: Usual for whole models; offsets and small adapters go without.
WEIGHT_DECAY = {"full": 0.01}
#: Forward passes that a forward and a backward pass together count as.
PASSES = 3


@dataclass(frozen=True)
class GradientMethod:
    """Prompt-based fine-tuning as in LM-BFF (Gao et al., 2021, arXiv 2012.15723).

    The template's prompt goes in, the label words' renormalised log-probabilities come out, and
    some of the model's weights (see :mod:`~blackbox_delta.compare.gradients.adaptations`) are
    trained on their cross-entropy: fp32, AdamW, no dropout, no early stopping.

    The learning rate is the one whose model answers the development examples best, by accuracy
    and then by loss; the first among equals. One at which training diverges is passed over. A
    single rate is taken as it is, and the development examples are not looked at.

    Args:
        kind: ``"full"``, ``"lora"``, ``"prefix"``, ``"prompt"`` or ``"bitfit"``.
        learning_rates: What to choose from; :func:`gradient_method` has defaults.

    Raises:
        ConfigError: No such kind, or a rate that is no positive number.
    """

    kind: str
    learning_rates: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        rates = self.learning_rates
        if not rates or not all(0 < rate < float("inf") for rate in rates):
            raise ConfigError(f"learning rates must be positive numbers, not {rates}")

    @property
    def name(self) -> str:
        """Its kind."""
        return self.kind

    @property
    def settings(self) -> Json:
        """Everything beside the trial that the result depends on."""
        return {
            "kind": self.kind,
            "learning_rates": list(self.learning_rates),
            "batch": BATCH,
            "warm_up": WARM_UP,
            "clip": CLIP,
            "weight_decay": WEIGHT_DECAY.get(self.kind, 0.0),
            "max_tokens": MAX_TOKENS,
        }

    def run(self, trial: Trial, step: Step) -> Measured:
        """Trains with each learning rate and reads the test examples with the best.

        Raises:
            BlackBoxDeltaError: The model cannot be trained this way; the trial's template, label
                words or examples cannot be used; or training diverged.
        """
        try:
            return self._run(trial, step)
        finally:
            gc.collect()  # a wrapped model and its wrapper hold one another

    def _run(self, trial: Trial, step: Step) -> Measured:
        loaded = open_causal(trial.model, trial.backend.identity.get("device"))
        questions = put(trial, loaded, VIRTUAL_TOKENS)
        began = time.perf_counter()
        adapted = adapt(self.kind, loaded.model, questions.frame, trial.seed)
        scorer = LabelScorer(adapted.model, adapted.base, questions.choices, adapted.shift)
        epochs = epochs_for(trial.split.shots)
        decay = WEIGHT_DECAY.get(self.kind, 0.0)
        job = Job(self.kind, scorer, adapted.parameters, questions, epochs, decay, trial.seed)
        best, attempts = best_rate(job, self.learning_rates, step)
        seconds = time.perf_counter() - began
        queries, tokens = _spent(questions, epochs, len(attempts), adapted.shift)
        measured = Measured(
            log_proba=scorer.read(questions.test),
            train_log_proba=scorer.read(questions.train.prompts),
            calls=queries / len(questions.train),
            queries=queries,
            tokens=tokens,
            seconds=seconds,
            test_queries=1.0,
            artifact_bytes=adapted.artifact_bytes,
            curve=_curve(best),
            details=_details(job, adapted, best, attempts),
            dtype=str(PRECISION),
        )
        step(1.0, f"{self.kind}: done")
        return measured


def gradient_method(kind: str) -> GradientMethod:
    """The method of that kind with its own small grid of learning rates.

    Raises:
        ConfigError: No such kind.
    """
    _check_kind(kind)
    return GradientMethod(kind, GRIDS[kind])


def _check_kind(kind: str) -> None:
    if kind not in ADAPTATIONS:
        raise ConfigError(
            f"there is no gradient method '{kind}'; choose one of {', '.join(ADAPTATIONS)}"
        )


def _spent(questions: Questions, epochs: int, attempts: int, shift: int) -> tuple[int, int]:
    """Queries and tokens of all attempts; development examples count where they choose."""
    rounds = [(questions.train, PASSES * epochs)]
    if attempts > 1:
        rounds.append((questions.dev, 1))
    queries = sum(len(part) * times for part, times in rounds)
    tokens = sum(times * part.tokens for part, times in rounds)
    return attempts * queries, attempts * (tokens + shift * queries)


def _curve(best: Attempt) -> tuple[Point, ...]:
    return tuple(
        Point(float(PASSES * epoch), loss) for epoch, loss in enumerate(best.losses, start=1)
    )


def _details(job: Job, adapted: Adapted, best: Attempt, attempts: list[Attempt]) -> Json:
    return {
        "learning_rate": best.rate,
        "tried": [attempt.record() for attempt in attempts],
        "epochs": job.epochs,
        "steps": steps_of(len(job.questions.train), job.epochs),
        "trainable_parameters": adapted.trainable,
    }
