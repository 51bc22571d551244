"""Calibrated verbalizers: what the model says of every text alike is taken off.

A label word can be likely whatever the text says. ``calibrated`` measures that on the
training examples (labels unused), ``contextual`` on texts without content
(Zhao et al. 2021, "Calibrate Before Use", arXiv:2102.09690). Both subtract one
number for each label from its log-probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.heads.probabilities import check_choices, check_training, log_softmax
from blackbox_delta.types import Evidence, IntArray, Vector

#: As in Zhao et al. 2021, section 5.
CONTENT_FREE = ("N/A", "[MASK]", "")


@dataclass(frozen=True)
class FittedShift:
    """Label log-probabilities less a fixed offset for each label.

    Attributes:
        kind: The head it came from.
        offset: (c,) what is subtracted, in nats.
        top_k: How many top tokens it needs with each reply: none.
    """

    kind: str
    offset: Vector
    top_k: int = 0

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            ConfigError: The evidence is about another number of labels.
        """
        check_choices(evidence, len(self.offset))
        return log_softmax(evidence.label_logprobs - self.offset)

    def state(self) -> dict[str, NDArray[Any]]:
        """The offset."""
        return {"offset": self.offset}


@dataclass(frozen=True)
class CalibratedHead:
    """Class-prior centring: each label's mean log-probability over the examples is subtracted.

    Right where the training examples are balanced, as a k-shot split is.
    """

    kind: str = "calibrated"
    top_k: int = 0

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """None needed."""
        del words
        return ()

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedShift:
        """Takes the means over the n examples; the labels are checked but not used.

        Raises:
            DataError: Fewer than two examples, or labels that do not match them.
        """
        del reference
        check_training(evidence, labels)
        return FittedShift(self.kind, evidence.label_logprobs.mean(axis=0, dtype=np.float64))

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c), each example centred by the mean of the n - 1 others.

        Raises:
            DataError: Fewer than two examples, or labels that do not match them.
        """
        mean = self.fit(evidence, labels, reference).offset
        n = len(evidence)
        # x_i - (n·mean - x_i)/(n - 1)  =  (x_i - mean)·n/(n - 1)
        return log_softmax((evidence.label_logprobs - mean) * (n / (n - 1)))


@dataclass(frozen=True)
class ContextualHead:
    """Contextual calibration (Zhao et al. 2021, section 5), with their three texts.

    With W = diag(p_cf)^-1 and b = 0 each label's probability is divided by the mean
    probability p_cf it has after content-free texts. The result is normalised to sum
    to one; the paper's softmax of W p has the same order but is almost flat.
    """

    kind: str = "contextual"
    top_k: int = 0

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """Three texts without content."""
        del words
        return CONTENT_FREE

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedShift:
        """Takes log p_cf from ``reference``; the examples and their labels are not used.

        Raises:
            ConfigError: No evidence on content-free texts was given.
        """
        del evidence, labels
        if reference is None or len(reference) == 0:
            raise ConfigError(
                "The 'contextual' head calibrates on content-free texts: score its `references` "
                "texts and pass that evidence as `reference`."
            )
        from scipy.special import logsumexp

        log_p = log_softmax(reference.label_logprobs)
        offset: Vector = logsumexp(log_p, axis=0) - np.log(len(log_p))  # log p_cf
        return FittedShift(self.kind, offset)

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c); the fit uses no example, so none needs holding out.

        Raises:
            ConfigError: No evidence on content-free texts was given.
        """
        return self.fit(evidence, labels, reference).log_proba(evidence)
