"""Small pieces that every head shares: scores to log-probabilities, checks of what comes in."""

from __future__ import annotations

import numpy as np

from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.types import Evidence, FloatArray, IntArray, Vector


def log_softmax(scores: Vector | FloatArray) -> Vector:
    """Log-probabilities of shape (n, c) from scores of shape (n, c)."""
    from scipy.special import log_softmax as scipy_log_softmax

    result: Vector = scipy_log_softmax(np.asarray(scores, dtype=np.float64), axis=1)
    return result


def check_choices(evidence: Evidence, choices: int) -> None:
    """Refuses evidence about another number of labels than the head was fitted for.

    Raises:
        ConfigError: The numbers differ.
    """
    found = evidence.label_logprobs.shape[1]
    if found != choices:
        raise ConfigError(
            f"The head was fitted for {choices} labels but the evidence holds {found}. "
            "Score the examples with the label words that the head was fitted with."
        )


def check_training(evidence: Evidence, labels: IntArray) -> None:
    """Refuses training data that no head can be fitted and held out on.

    Raises:
        DataError: Fewer than two examples, not one label for each, or a label out of range.
    """
    n, c = evidence.label_logprobs.shape
    if len(labels) != n:
        raise DataError(f"A head needs one label for each example: {n} examples, {len(labels)}.")
    if n < 2:
        raise DataError(f"A head needs at least two labelled examples, but there are {n}.")
    if labels.min() < 0 or labels.max() >= c:
        raise DataError(
            f"Labels must lie between 0 and {c - 1}, but they run from "
            f"{labels.min()} to {labels.max()}."
        )
