"""How good a classifier is, and whether it is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from blackbox_delta.errors import DataError
from blackbox_delta.types import FloatArray, IntArray, Vector

Kind: TypeAlias = Literal["gain", "loss", "no reliable difference"]

SIGNIFICANCE = 0.05
_Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Metrics:
    """Scores on n labelled examples.

    Attributes:
        accuracy: Share of right answers.
        macro_f1: Mean F1 over the classes that occur among the labels or the answers.
        log_loss: Mean negative log-probability of the right class, in nats.
        n: Number of examples.
        recall: Share of right answers for each class that occurs among the labels.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    n: int
    recall: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """Whether the tuned model is reliably better than the baseline on the same examples.

    Attributes:
        difference: Accuracy of the tuned model less that of the baseline, as a fraction.
        low: Lower end of the 95 % confidence interval of the difference.
        high: Upper end.
        p_value: Exact two-sided McNemar test.
        n: Number of examples.
        kind: ``gain`` or ``loss`` where p < 0.05, else ``no reliable difference``.
        sentence: The same in words.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    kind: Kind
    sentence: str


def evaluate(y_true: IntArray, log_proba: Vector | FloatArray, labels: Sequence[str]) -> Metrics:
    """Scores class probabilities against the truth.

    Args:
        y_true: (n,) positions in ``labels``.
        log_proba: (n, c) log class probabilities; rows need not be normalised.
        labels: The c class names.

    Raises:
        DataError: There are no examples, the shapes do not fit, or a probability is not a number.
    """
    from scipy.special import softmax
    from sklearn.metrics import f1_score, log_loss, recall_score

    _check(y_true, log_proba, labels)
    predicted = log_proba.argmax(axis=1)
    present = np.unique(y_true)
    recall = recall_score(y_true, predicted, labels=present, average=None, zero_division=0)
    # In float64, so that rows sum to one as closely as scikit-learn asks for.
    proba = softmax(log_proba.astype(np.float64), axis=1)
    return Metrics(
        accuracy=float(np.mean(predicted == y_true)),
        macro_f1=float(f1_score(y_true, predicted, average="macro", zero_division=0)),
        log_loss=float(log_loss(y_true, proba, labels=np.arange(len(labels)))),
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


def paired_verdict(y_true: IntArray, baseline_pred: IntArray, tuned_pred: IntArray) -> Verdict:
    """Compares two classifiers on the same n examples.

    The test is McNemar's in its exact form (a binomial test on the examples that exactly one of
    the two got right). The interval is the adjusted Wald interval of Agresti and Min, "Simple
    improved confidence intervals for comparing matched proportions", Statistics in Medicine 24
    (2005) 729-740: the Wald interval after half an example is added to each of the four cells.

    Args:
        y_true: (n,) positions of the right labels.
        baseline_pred: (n,) the answers of the calibrated untuned model.
        tuned_pred: (n,) the answers of the tuned model.

    Raises:
        DataError: There are no examples, or the numbers differ.
    """
    from scipy.stats import binomtest

    n = len(y_true)
    if n == 0 or len(baseline_pred) != n or len(tuned_pred) != n:
        raise DataError(
            f"cannot compare {len(baseline_pred)} and {len(tuned_pred)} answers on {n} examples"
        )
    baseline_right, tuned_right = baseline_pred == y_true, tuned_pred == y_true
    gained = int(np.sum(tuned_right & ~baseline_right))
    lost = int(np.sum(baseline_right & ~tuned_right))
    changed = gained + lost
    p_value = float(binomtest(gained, changed, 0.5).pvalue) if changed else 1.0
    low, high = _interval(gained, lost, n)
    difference = (gained - lost) / n
    kind = _kind(difference, p_value)
    sentence = _sentence(kind, difference, f"{_points(low)} to {_points(high)}", p_value, n)
    return Verdict(difference, low, high, p_value, n, kind, sentence)


def _interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    # Agresti and Min (2005), section 3: n* = n + 2, each discordant count + 1/2.
    total = n + 2
    centre = (gained - lost) / total
    spread = math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / total) / total
    return max(-1.0, centre - _Z * spread), min(1.0, centre + _Z * spread)


def _kind(difference: float, p_value: float) -> Kind:
    if p_value >= SIGNIFICANCE or difference == 0:
        return "no reliable difference"
    return "gain" if difference > 0 else "loss"


def _sentence(kind: Kind, difference: float, interval: str, p_value: float, n: int) -> str:
    p = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    evidence = f"95 % interval {interval}; exact paired test {p}, {n} test examples"
    if kind == "no reliable difference":
        return (
            "No reliable gain: keep the baseline. Tuned less calibrated untuned model: "
            f"{_points(difference)} points ({evidence})."
        )
    size = _points(abs(difference))
    if kind == "gain":
        return f"Tuned is better than the calibrated untuned model by {size} points ({evidence})."
    return (
        f"Tuned is worse than the calibrated untuned model by {size} points ({evidence}). "
        "Keep the baseline."
    )


def _points(fraction: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * fraction, 1) + 0.0:.1f}"
