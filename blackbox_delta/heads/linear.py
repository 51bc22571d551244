"""A linear classifier on features of the evidence: what ridge and logistic heads fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.heads.features import Design, FeatureMap
from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.types import Evidence, Vector


@dataclass(frozen=True)
class FittedLinear:
    """softmax(features·weights + bias).

    Attributes:
        kind: The head it came from.
        features: Evidence to features of shape (n, p).
        weights: (p, c), for each nat of log-probability.
        bias: (c,).
    """

    kind: str
    features: FeatureMap
    weights: Vector
    bias: Vector

    @classmethod
    def of(cls, kind: str, design: Design, weights: Vector, bias: Vector) -> FittedLinear:
        """From weights (p, c) and bias (c,) on the standardised design."""
        return cls(kind, design.features, *design.unscaled(weights, bias))

    @classmethod
    def from_state(cls, kind: str, state: Mapping[str, NDArray[Any]]) -> FittedLinear:
        """The inverse of :meth:`state`; raises ``KeyError`` where an array is missing."""
        bias = state["bias"]
        features = FeatureMap(len(bias), int(state["top_k"][0]), state["vocabulary"])
        return cls(kind, features, state["weights"], bias)

    @property
    def top_k(self) -> int:
        """How many top tokens it needs with each reply."""
        return self.features.top_k

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            ConfigError: The evidence has another number of labels or of top tokens.
        """
        return log_softmax(self.scores(evidence))

    def scores(self, evidence: Evidence) -> Vector:
        """Scores (n, c) before the softmax; raises as :meth:`log_proba` does."""
        scores: Vector = self.features(evidence) @ self.weights + self.bias
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """The columns, the weights and the bias."""
        return {
            "vocabulary": self.features.vocabulary,
            "top_k": np.array([self.top_k], dtype=np.int64),
            "weights": self.weights,
            "bias": self.bias,
        }
