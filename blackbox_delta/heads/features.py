"""Evidence as a feature matrix: the label words' and the top tokens' log-probabilities.

The columns are fixed when a head is fitted: c label words, then the m tokens that stand in
the top k of at least one training example.

* A label word counts relative to the other label words of the same reply.
* A top token counts by how far it stands above the reply's floor, its smallest returned
  log-probability. Of a token outside the top k it is only known that it lies below that
  floor. It is taken to lie one nat below: measured on real models this beats both the floor
  itself and a floor common to all replies.

Columns are centred, not divided by their spread: a token whose log-probability moves a lot
says more than one that barely moves, and rarely returned tokens would be blown up.

Columns and their means come from all training texts. A held-out estimate on top of them is
therefore transductive in the features: it never sees the held-out label, but the held-out
text took part in choosing the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.heads.probabilities import check_choices
from blackbox_delta.types import Evidence, IntArray, Vector

_BELOW_FLOOR = 1.0  # nats
_LABEL_WEIGHT = 2.0  # a label word against a top token, under a penalty that treats them alike


def check_top_k(evidence: Evidence, top_k: int) -> None:
    """Refuses evidence with another number of top tokens than the head was fitted on.

    Raises:
        ConfigError: The numbers differ.
    """
    found = evidence.top_ids.shape[1]
    if found != top_k:
        raise ConfigError(
            f"The head was fitted on the top {top_k} tokens but the evidence holds {found}. "
            f"Score the examples with top_k={top_k}."
        )


def label_scores(evidence: Evidence) -> Vector:
    """Label log-probabilities (n, c) relative to the mean label of the same reply."""
    labels = evidence.label_logprobs.astype(np.float64)
    result: Vector = labels - labels.mean(axis=1, keepdims=True)
    return result


@dataclass(frozen=True)
class FeatureMap:
    """Which numbers of an evidence are features.

    Attributes:
        choices: c, the number of label words.
        top_k: k, the number of top tokens in each reply.
        vocabulary: (m,) int64, the token ids that have a column, ascending.
    """

    choices: int
    top_k: int
    vocabulary: IntArray

    @classmethod
    def of(cls, evidence: Evidence, reference: Evidence | None = None) -> FeatureMap:
        """The columns that the training evidence, and what goes with it, give rise to."""
        choices, top_k = evidence.label_logprobs.shape[1], evidence.top_ids.shape[1]
        tokens = [each.top_ids.ravel() for each in (evidence, reference) if each is not None]
        return cls(choices, top_k, np.unique(np.concatenate(tokens)))

    @property
    def size(self) -> int:
        """p = c + m, the number of features."""
        return self.choices + len(self.vocabulary)

    @property
    def weight(self) -> Vector:
        """(p,) what centred features are multiplied by before they are compared."""
        result = np.ones(self.size)
        result[: self.choices] = _LABEL_WEIGHT
        return result

    def __call__(self, evidence: Evidence) -> Vector:
        """Features of shape (n, c + m), in nats.

        Raises:
            ConfigError: The evidence has another number of labels or of top tokens.
        """
        check_choices(evidence, self.choices)
        check_top_k(evidence, self.top_k)
        result = np.zeros((len(evidence), self.size))
        result[:, : self.choices] = label_scores(evidence)
        if self.top_k:
            self._fill_top_tokens(result[:, self.choices :], evidence)
        return result

    def _fill_top_tokens(self, columns: Vector, evidence: Evidence) -> None:
        logprobs = evidence.top_logprobs.astype(np.float64)
        excess = logprobs - logprobs.min(axis=1, keepdims=True) + _BELOW_FLOOR
        at = np.searchsorted(self.vocabulary, evidence.top_ids)
        at = np.minimum(at, len(self.vocabulary) - 1)
        rows, ranks = np.nonzero(self.vocabulary[at] == evidence.top_ids)
        columns[rows, at[rows, ranks]] = excess[rows, ranks]


@dataclass(frozen=True)
class Design:
    """The training examples' features, centred and weighted.

    Attributes:
        features: Where the columns come from.
        matrix: (n, p), each column with mean 0.
        mean: (p,) the features' means.
        weight: (p,) what the centred features were multiplied by.
    """

    features: FeatureMap
    matrix: Vector
    mean: Vector
    weight: Vector

    @classmethod
    def of(cls, evidence: Evidence, reference: Evidence | None = None) -> Design:
        """The design of n training examples; ``reference`` adds columns, not rows."""
        features = FeatureMap.of(evidence, reference)
        matrix, weight = features(evidence), features.weight
        mean = matrix.mean(axis=0)
        matrix -= mean  # in place: it is the largest thing that there is
        matrix *= weight
        return cls(features, matrix, mean, weight)

    def rows(self, evidence: Evidence) -> Vector:
        """Other replies as rows (n, p) like those of ``matrix``."""
        rows = self.features(evidence)
        rows -= self.mean
        rows *= self.weight
        return rows

    @property
    def label_scores(self) -> Vector:
        """(n, c) centred label log-probabilities: what the calibrated verbalizer goes by."""
        c = self.features.choices
        scores: Vector = self.matrix[:, :c] / self.weight[:c]
        return scores

    def unscaled(self, weights: Vector, bias: Vector) -> tuple[Vector, Vector]:
        """Weights (p, c) and bias (c,) on features, from those on the design's columns."""
        raw_weights = weights * self.weight[:, None]
        return raw_weights, bias - self.mean @ raw_weights
