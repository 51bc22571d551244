"""Linear discriminant analysis with a shrunken covariance, left one out in closed form.

Friedman 1989, "Regularized Discriminant Analysis" (JASA 84): the classes share one covariance,
which is shrunk towards a multiple of the identity so that it can be inverted with far fewer
examples than features. How far is chosen by the leave-one-out likelihood of the classes; the
Ledoit-Wolf amount, which serves the covariance's own sake, shrinks ten times less here and did
no better. All classes are taken to be equally likely beforehand.

Beside the discriminant the calibrated label words keep a say, as large as the leave-one-out
likelihood gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.heads.anchors import anchor_directions, anchor_texts
from blackbox_delta.heads.balance import balanced_mean, held_out_balanced_means
from blackbox_delta.heads.features import Design
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.linear import FittedLinear
from blackbox_delta.heads.ridge import Spectrum
from blackbox_delta.heads.weighing import Weighed, best_of, with_unseen
from blackbox_delta.types import Evidence, IntArray, Vector

# Relative to the examples' mean square length, so that they mean the same for any number of
# features. With few examples a wider grid only gives the selection more noise to follow.
_STRENGTHS = np.logspace(-1.0, 0.5, 7)
_RANK_TOLERANCE = 1e-10  # of the largest eigenvalue


@dataclass(frozen=True)
class Scatter:
    """The examples in the eigenbasis of the scatter within classes, W = Σ (x - μ)(x - μ)ᵀ.

    Only the row space of the design matters: r < n directions, not p. Shrinking a covariance
    towards the identity commutes with that rotation.

    Attributes:
        rows: (n, r) examples.
        labels: (n,).
        counts: (c,) examples of each class.
        means: (c, r) class means; 0 for a class without examples.
        eigenvalues: (r,) of W, never negative.
        dual: (n, r) with rows = design · designᵀ · dual.
        unit: The examples' mean square length, which strengths are relative to.
    """

    rows: Vector
    labels: IntArray
    counts: IntArray
    means: Vector
    eigenvalues: Vector
    dual: Vector
    unit: float

    @classmethod
    def of(cls, design: Vector, labels: IntArray, choices: int) -> Scatter:
        """Decomposes a centred (n, p) design of n examples in c classes."""
        spectrum = Spectrum.of(design)
        kept = spectrum.eigenvalues > _RANK_TOLERANCE * spectrum.eigenvalues[-1]
        root = np.sqrt(spectrum.eigenvalues[kept])
        rows = spectrum.vectors[:, kept] * root
        counts = np.bincount(labels, minlength=choices)
        means = np.eye(choices)[labels].T @ rows / np.maximum(counts, 1)[:, None]
        within = rows - means[labels]
        eigenvalues, rotation = np.linalg.eigh(within.T @ within)
        return cls(
            rows @ rotation,
            labels,
            counts,
            means @ rotation,
            np.maximum(eigenvalues, 0.0),
            (spectrum.vectors[:, kept] / root) @ rotation,
            spectrum.unit,
        )

    def held_out(self, alpha: float) -> Vector:
        """Scores (n, c), each example's from means and a scatter that it has no part in.

        A score is -½ (x - μ)ᵀ A^-1 (x - μ) with A = W + αI; dividing W by its degrees of freedom
        is left to the sharpness. Without x_i, whose class has m examples and whose deviation is
        d, A loses m/(m - 1)·d dᵀ: Sherman and Morrison's formula gives the inverse. Exact for
        the same α. Where m = 1 nothing is lost, and what stands at the example's own class means
        nothing.
        """
        inverse = 1.0 / (self.eigenvalues + alpha)
        m = self.counts[self.labels]
        loss = np.where(m > 1, m / np.maximum(m - 1, 1), 0.0)
        deviations = self.rows - self.means[self.labels]
        reach = (deviations**2) @ inverse  # dᵀ A^-1 d
        slack = 1.0 - loss * reach  # > 0, as A - loss·d dᵀ stays positive definite
        across = ((deviations * self.rows) @ inverse)[:, None]
        across = across - (deviations * inverse) @ self.means.T  # dᵀ A^-1 (x - μ)
        squares = self._squares(inverse) + (loss / slack)[:, None] * across**2
        squares[np.arange(len(m)), self.labels] = loss**2 * reach / slack
        result: Vector = -0.5 * squares
        return result

    def _squares(self, inverse: Vector) -> Vector:
        """(x - μ)ᵀ A^-1 (x - μ) of every example (n, 1) and class (1, c)."""
        of_rows, of_means = self.rows**2 @ inverse, self.means**2 @ inverse
        crossed = (self.rows * inverse) @ self.means.T
        squares: Vector = of_rows[:, None] - 2.0 * crossed + of_means
        return squares

    def parameters(self, alpha: float) -> tuple[Vector, Vector]:
        """Dual weights (n, c) and bias (c,): the same scores, less what all classes share."""
        scaled = self.means / (self.eigenvalues + alpha)
        return self.dual @ scaled.T, -0.5 * (scaled * self.means).sum(axis=1)


@dataclass(frozen=True)
class FittedDiscriminant:
    """A linear classifier that knows which classes it has seen.

    Attributes:
        linear: The scores.
        counts: (c,) training examples of each class.
    """

    linear: FittedLinear
    counts: IntArray

    @classmethod
    def from_state(cls, kind: str, state: Mapping[str, NDArray[Any]]) -> FittedDiscriminant:
        """The inverse of :meth:`state`; raises ``KeyError`` where an array is missing."""
        return cls(FittedLinear.from_state(kind, state), state["counts"])

    @property
    def kind(self) -> str:
        """The head it came from."""
        return self.linear.kind

    @property
    def top_k(self) -> int:
        """How many top tokens it needs with each reply."""
        return self.linear.top_k

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            ConfigError: The evidence has another number of labels or of top tokens.
        """
        scores = self.linear.scores(evidence)
        return with_unseen(scores, self.counts > 0, int(self.counts.sum()))

    def state(self) -> dict[str, NDArray[Any]]:
        """The columns, the weights, the bias and the counts."""
        return {**self.linear.state(), "counts": self.counts}


@dataclass(frozen=True)
class Chosen:
    """A discriminant and what stands beside it, weighed by the leave-one-out likelihood.

    Attributes:
        design: The training features.
        scatter: Their decomposition.
        alpha: How far the covariance is shrunk.
        priors: (q, p, c) what is known without the labelled examples, as weights on the design:
            the label words' own scores, and the anchors' directions where they were asked for.
        weighed: A factor for the discriminant and for each prior.
    """

    design: Design
    scatter: Scatter
    alpha: float
    priors: Vector
    weighed: Weighed

    @classmethod
    def of(cls, evidence: Evidence, labels: IntArray, anchors: Evidence | None = None) -> Chosen:
        """Takes the strength of the highest leave-one-out likelihood."""
        design = Design.of(evidence, anchors)
        scatter = Scatter.of(design.matrix, labels, design.features.choices)
        priors = _priors(design, anchors)
        known = design.matrix @ priors
        beside = [scores - held_out_balanced_means(scores, labels) for scores in known]
        alphas = _STRENGTHS * scatter.unit
        tried = Weighed.of_each([(scatter.held_out(alpha), *beside) for alpha in alphas], labels)
        best = best_of(tried)
        return cls(design, scatter, float(alphas[best]), priors, tried[best])

    def fitted(self, kind: str) -> FittedDiscriminant:
        """The linear classifier that comes of it."""
        linear = FittedLinear.of(kind, self.design, *self._parameters())
        return FittedDiscriminant(linear, self.scatter.counts)

    def _parameters(self) -> tuple[Vector, Vector]:
        """Weights (p, c) and bias (c,) on the design."""
        sharpness, *trusts = self.weighed.factors
        dual, bias = self.scatter.parameters(self.alpha)
        weights, bias = self.design.matrix.T @ (sharpness * dual), sharpness * bias
        for trust, prior in zip(trusts, self.priors, strict=True):
            weights += trust * prior
            bias -= trust * balanced_mean(self.design.matrix @ prior, self.scatter.labels)
        return weights, bias


def _priors(design: Design, anchors: Evidence | None) -> Vector:
    c = design.features.choices
    words = np.zeros((design.features.size, c))
    words[:c] = np.diag(1.0 / design.weight[:c])
    if anchors is None:
        return words[None]
    return np.stack([words, anchor_directions(design.rows(anchors), c)])


@dataclass(frozen=True)
class DiscriminantHead(LearnedHead):
    """Shrinkage discriminant analysis on the label words' and top tokens' log-probabilities."""

    kind: str = "discriminant"

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedDiscriminant:
        del reference
        return Chosen.of(evidence, labels).fitted(self.kind)

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        del reference
        return Chosen.of(evidence, labels).weighed.log_proba


@dataclass(frozen=True)
class AnchoredHead(LearnedHead):
    """A discriminant beside the label words and their anchors, see :mod:`.anchors`.

    Without ``reference`` it is the discriminant alone. It asks for more tokens than the other
    heads: a class is told by many tokens, few of which are among a reply's likeliest hundred.
    """

    kind: str = "anchored"
    top_k: int = 300

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """Every anchor phrase with each of the label words."""
        return anchor_texts(words)

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedDiscriminant:
        return Chosen.of(evidence, labels, reference).fitted(self.kind)

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        return Chosen.of(evidence, labels, reference).weighed.log_proba
