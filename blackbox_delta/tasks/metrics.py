"""How good a classifier is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.errors import DataError
from blackbox_delta.types import FloatArray, IntArray, Vector

_LEAST = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class Metrics:
    """Scores on n labelled examples.

    Attributes:
        accuracy: Share of right answers.
        macro_f1: Mean F1 over the classes that occur among the labels or the answers.
        log_loss: Mean negative log-probability of the right class, in nats; a probability of zero
            counts as the smallest positive number.
        n: Number of examples.
        recall: Share of right answers for each class that occurs among the labels.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    n: int
    recall: dict[str, float]


def evaluate(y_true: IntArray, log_proba: Vector | FloatArray, labels: Sequence[str]) -> Metrics:
    """Scores class probabilities against the truth.

    Args:
        y_true: (n,) positions in ``labels``.
        log_proba: (n, c) log class probabilities; rows need not be normalised.
        labels: The c class names.

    Raises:
        DataError: There are no examples, the shapes do not fit, or a probability is not a number.
    """
    from scipy.special import log_softmax
    from sklearn.metrics import f1_score, recall_score

    _check(y_true, log_proba, labels)
    predicted = log_proba.argmax(axis=1)
    present = np.unique(y_true)
    recall = recall_score(y_true, predicted, labels=present, average=None, zero_division=0)
    # Not scikit-learn's log_loss, which takes probabilities, and no less than 2e-16 of them.
    said = log_softmax(log_proba.astype(np.float64), axis=1)[np.arange(len(y_true)), y_true]
    return Metrics(
        accuracy=float(np.mean(predicted == y_true)),
        macro_f1=float(f1_score(y_true, predicted, average="macro", zero_division=0)),
        log_loss=float(-np.maximum(said, _LEAST).mean()),
        n=len(y_true),
        recall={labels[k]: float(value) for k, value in zip(present, recall, strict=True)},
    )


def _check(y_true: IntArray, log_proba: Vector | FloatArray, labels: Sequence[str]) -> None:
    if len(y_true) == 0:
        raise DataError("there are no examples to evaluate on")
    if log_proba.shape != (len(y_true), len(labels)):
        raise DataError(
            f"class probabilities of shape {log_proba.shape} where {len(y_true)} examples and "
            f"{len(labels)} classes need {(len(y_true), len(labels))}"
        )
    # One finite entry a row is enough: minus infinity is a probability of zero.
    if not np.isfinite(log_proba.max(axis=1)).all():
        raise DataError("an example's class probabilities are not numbers")
