"""Nearest class prototypes beside the label words, after DecT.

Cui et al. 2023, "Decoder Tuning: Efficient Language Understanding as Decoding"
(arXiv:2212.08408): a class is a hypersphere around the mean of its examples, its score is
radius less distance, and the calibrated label scores are added with a weight. The paper takes
hidden states through a trained projection. Inference APIs do not return hidden states, so the
features here are those of the output distribution, each example centred, then scaled to length 1
as the paper's projections are, and nothing is trained by gradients: centres and radii are means,
and three factors (on distance, radius and label words) follow from the leave-one-out likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.heads.balance import balanced_mean, held_out_balanced_means
from blackbox_delta.heads.features import Design, FeatureMap
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.weighing import Weighed, with_unseen
from blackbox_delta.types import Evidence, IntArray, Vector

_SMALLEST_LENGTH = 1e-3  # nats, below which float32 log-probabilities are rounding


def unit_rows(matrix: Vector) -> Vector:
    """Rows of length 1; those of hardly any length stay short."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    result: Vector = matrix / np.maximum(length, _SMALLEST_LENGTH)
    return result


def distances(points: Vector, centres: Vector) -> Vector:
    """Euclidean distances (n, c) from points (n, p) to centres (c, p)."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    result: Vector = np.sqrt(np.maximum(squares - 2.0 * points @ centres.T, 0.0))
    return result


def radii_of(spread: Vector, counts: IntArray) -> Vector:
    """Radii (..., c): a class's spread, or the mean of the others' where one example has none.

    Args:
        spread: (..., c) mean distance of a class's examples from its centre.
        counts: (..., c) how many they are.
    """
    known = counts > 1
    common = np.where(known, spread, 0.0).sum(axis=-1, keepdims=True)
    common = common / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    result: Vector = np.where(known, spread, common)
    return result


@dataclass(frozen=True)
class Spheres:
    """The classes among the training examples.

    Attributes:
        points: (n, p) examples.
        labels: (n,).
        counts: (c,) examples of each class.
        centres: (c, p) class means; 0 for a class without examples.
        spread: (c,) mean distance of a class's examples from its centre.
    """

    points: Vector
    labels: IntArray
    counts: IntArray
    centres: Vector
    spread: Vector

    @classmethod
    def of(cls, points: Vector, labels: IntArray, choices: int) -> Spheres:
        """Centres and spread of n points in c classes."""
        counts = np.bincount(labels, minlength=choices)
        many = np.maximum(counts, 1)
        member = np.eye(choices)[labels]
        centres = member.T @ points / many[:, None]
        spread = member.T @ np.linalg.norm(points - centres[labels], axis=1) / many
        return cls(points, labels, counts, centres, spread)

    @property
    def radii(self) -> Vector:
        """(c,) of the spheres."""
        return radii_of(self.spread, self.counts)

    def held_out(self) -> tuple[Vector, Vector]:
        """Distances and radii (n, c), each example's from spheres that it has no part in.

        What stands at the class of its only example means nothing.
        """
        away = distances(self.points, self.centres)
        spread = np.tile(self.spread, (len(self.labels), 1))
        for k in np.flatnonzero(self.counts > 1):
            own = np.flatnonzero(self.labels == k)
            # Without x_i the centre moves by (centre - x_i)/(m - 1).
            away[own, k] *= len(own) / (len(own) - 1)
            spread[own, k] = self._held_out_spread(own, int(k))
        others = self.counts - np.eye(len(self.counts), dtype=np.int64)[self.labels]
        return away, radii_of(spread, others)

    def _held_out_spread(self, own: IntArray, k: int) -> Vector:
        rest = len(own) - 1
        deviations = self.points[own] - self.centres[k]
        products = deviations @ deviations.T
        length = np.diag(products)
        squares = length + 2.0 * products / rest + length[:, None] / rest**2
        away = np.sqrt(np.maximum(squares, 0.0))  # (i, j): x_j from the centre without x_i
        np.fill_diagonal(away, 0.0)
        result: Vector = away.sum(axis=1) / rest
        return result


@dataclass(frozen=True)
class FittedPrototypes:
    """A sphere for each class.

    Attributes:
        features: Evidence to features of shape (n, p).
        mean: (p,) what is subtracted from them.
        offset: (c,) what is subtracted from the centred label scores.
        counts: (c,) training examples of each class.
        centres: (c, p).
        radii: (c,).
        factors: (3,) on distance, radius and label scores.
        kind: The head it came from.
    """

    features: FeatureMap
    mean: Vector
    offset: Vector
    counts: IntArray
    centres: Vector
    radii: Vector
    factors: Vector
    kind: str = "prototypes"

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> FittedPrototypes:
        """The inverse of :meth:`state`; raises ``KeyError`` where an array is missing."""
        choices, top_k = len(state["counts"]), int(state["top_k"][0])
        return cls(
            features=FeatureMap(choices, top_k, state["vocabulary"]),
            mean=state["mean"],
            offset=state["offset"],
            counts=state["counts"],
            centres=state["centres"],
            radii=state["radii"],
            factors=state["factors"],
        )

    @property
    def top_k(self) -> int:
        """How many top tokens it needs with each reply."""
        return self.features.top_k

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            ConfigError: The evidence has another number of labels or of top tokens.
        """
        centred = self.features(evidence) - self.mean
        away = distances(unit_rows(centred * self.features.weight), self.centres)
        on_distance, on_radius, on_labels = self.factors
        scores = on_radius * self.radii - on_distance * away
        scores = scores + on_labels * (centred[:, : len(self.counts)] - self.offset)
        return with_unseen(scores, self.counts > 0, int(self.counts.sum()))

    def state(self) -> dict[str, NDArray[Any]]:
        """The columns, the spheres and the factors."""
        return {
            "vocabulary": self.features.vocabulary,
            "top_k": np.array([self.top_k], dtype=np.int64),
            "mean": self.mean,
            "offset": self.offset,
            "counts": self.counts,
            "centres": self.centres,
            "radii": self.radii,
            "factors": self.factors,
        }


def _spheres(evidence: Evidence, labels: IntArray) -> tuple[Design, Spheres, Weighed]:
    design = Design.of(evidence)
    spheres = Spheres.of(unit_rows(design.matrix), labels, design.features.choices)
    away, radii = spheres.held_out()
    scores = design.label_scores
    scores = scores - held_out_balanced_means(scores, labels)
    return design, spheres, Weighed.of((-away, radii, scores), labels)


@dataclass(frozen=True)
class PrototypesHead(LearnedHead):
    """One prototype a class on the output distribution, with the calibrated label words."""

    kind: str = "prototypes"

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedPrototypes:
        del reference
        design, spheres, weighed = _spheres(evidence, labels)
        return FittedPrototypes(
            features=design.features,
            mean=design.mean,
            offset=balanced_mean(design.label_scores, labels),
            counts=spheres.counts,
            centres=spheres.centres,
            radii=spheres.radii,
            factors=weighed.factors,
        )

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        del reference
        return _spheres(evidence, labels)[2].log_proba
