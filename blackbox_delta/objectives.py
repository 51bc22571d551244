"""Objectives: class log-probabilities and labels to one loss, lower is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from blackbox_delta.errors import BackendError, ConfigError, DataError
from blackbox_delta.types import IntArray, Vector

Objective: TypeAlias = Callable[[Vector, IntArray], float]
"""(n, c) class log-probabilities and (n,) labels to a finite loss."""

HINGE_MARGIN = 2.0
"""The margin of Black-Box Tuning's hinge loss (its reference code; the same for every task)."""


def cross_entropy(log_proba: Vector, labels: IntArray) -> float:
    """Mean negative log-probability of the right class, in nats."""
    _check(log_proba, labels)
    return float(-_right(log_proba, labels).mean())


def hinge(log_proba: Vector, labels: IntArray) -> float:
    """Mean over examples of Σ_{i≠y} max(0, margin + log p_i − log p_y).

    Black-Box Tuning (Sun et al., 2022, arXiv 2201.03514), with the margin and the sum over
    the wrong classes of its reference code. Differences of log-probabilities are those of
    the logits. It stops rewarding examples that are right by more than the margin.
    """
    _check(log_proba, labels)
    shortfall = np.maximum(0.0, HINGE_MARGIN + log_proba - _right(log_proba, labels)[:, None])
    shortfall[np.arange(len(labels)), labels] = 0.0
    return float(shortfall.sum(axis=1).mean())


def error_rate(log_proba: Vector, labels: IntArray) -> float:
    """Share of examples whose likeliest class (the first of equals) is wrong."""
    _check(log_proba, labels)
    return float((log_proba.argmax(axis=1) != labels).mean())


OBJECTIVES: dict[str, Objective] = {
    "cross-entropy": cross_entropy,
    "hinge": hinge,
    "error-rate": error_rate,
}


def make_objective(name: str) -> Objective:
    """The objective called ``name``.

    What it returns raises BackendError for log-probabilities that are not finite, and
    DataError for labels that do not fit them; it never returns NaN.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"There is no objective '{name}'. Choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


def _right(log_proba: Vector, labels: IntArray) -> Vector:
    return np.asarray(log_proba[np.arange(len(labels)), labels], dtype=np.float64)


def _check(log_proba: Vector, labels: IntArray) -> None:
    if log_proba.ndim != 2 or labels.shape != log_proba.shape[:1] or not len(labels):
        raise DataError(
            "An objective takes log-probabilities of shape (n, c) and labels of shape (n,) with "
            f"n >= 1, not {log_proba.shape} and {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= log_proba.shape[1]:
        raise DataError(
            f"Labels must be between 0 and {log_proba.shape[1] - 1}, "
            f"not {labels.min()} to {labels.max()}."
        )
    if not np.isfinite(log_proba).all():
        row = int(np.flatnonzero(~np.isfinite(log_proba).all(axis=1))[0])
        raise BackendError(
            f"The class log-probabilities of example {row} are not finite: {log_proba[row]}. "
            "A broken reply cannot be turned into a loss."
        )
