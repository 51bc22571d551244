"""How several kinds of score are weighed into class probabilities, by the held-out likelihood.

A learned head has scores of its own, which may be on any scale, and the label words' scores,
which may or may not mean what they say. One factor for each, all of them positive, is fitted
to leave-one-out scores: sharpness and trust at once. It is DecT's weight λ on the label words
(Cui et al. 2023), estimated instead of set to 1/shots. Beside prototypes that are not trained
by gradients the constant cost SmolLM2-135M 10 points on TREC, where its label words say little.

A class whose only example is held out has no scores. It gets the probability of what was not
seen in the others, 1/(examples + classes): Laplace's rule of succession.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.heads.newton import likeliest
from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.types import IntArray, Vector

_SMALLEST_SCORE = 1e-3  # nats, below which float32 log-probabilities are rounding


def fit_factors(terms: Vector, labels: IntArray) -> Vector:
    """Factors (…, q) > 0 under which softmax(Σ factor·term) makes the labels likeliest.

    As in Platt scaling the targets are smoothed, by one imagined example of each class, so that
    perfectly separated scores keep finite factors. Without examples every factor is 1.

    Args:
        terms: (…, q, n, c) scores; each set of q terms is weighed for itself.
        labels: (n,).
    """
    *several, q, n, c = terms.shape
    if n == 0:
        return np.ones((*several, q))
    centred = terms - terms.mean(axis=-1, keepdims=True)
    unit = np.maximum(np.sqrt((centred**2).mean(axis=(-2, -1))), _SMALLEST_SCORE)
    targets = (n * np.eye(c)[labels] + 1.0) / (n + c)
    scaled = (centred / unit[..., None, None]).reshape(-1, q, n, c)
    factors: Vector = likeliest(scaled, targets).reshape(*several, q) / unit
    return factors


def fit_sharpness(scores: Vector, labels: IntArray) -> float:
    """The one factor on scores (n, c): the inverse of a temperature."""
    return float(fit_factors(scores[None], labels)[0])


def with_unseen(scores: Vector, seen: NDArray[np.bool_], count: int) -> Vector:
    """Log class probabilities (n, c), by softmax over the classes seen.

    Args:
        scores: (n, c), ignored for classes not seen.
        seen: (c,) or (n, c), whether a class has an example; at least one does.
        count: Of how many examples.
    """
    c = scores.shape[1]
    seen = np.broadcast_to(seen, scores.shape)
    unseen = (~seen).sum(axis=1, keepdims=True)
    among_seen = log_softmax(np.where(seen, scores, -np.inf))
    result: Vector = np.where(
        seen, among_seen + np.log1p(-unseen / (count + c)), -np.log(count + c)
    )
    return result


@dataclass(frozen=True)
class Weighed:
    """Leave-one-out scores and what became of them.

    Attributes:
        factors: (q,) one for each term.
        log_proba: (n, c) leave-one-out log class probabilities.
        likelihood: Mean log-probability of the true labels, by which settings are chosen.
    """

    factors: Vector
    log_proba: Vector
    likelihood: float

    @classmethod
    def of(cls, terms: Sequence[Vector], labels: IntArray) -> Weighed:
        """Weighs leave-one-out scores.

        Args:
            terms: q arrays (n, c); what stands at an example's own class is ignored where it is
                that class's only one.
            labels: (n,).
        """
        return cls.of_each([terms], labels)[0]

    @classmethod
    def of_each(cls, several: Sequence[Sequence[Vector]], labels: IntArray) -> list[Weighed]:
        """The same for several sets of terms, each weighed for itself, faster than in turns."""
        stacked = np.array(several)  # (s, q, n, c)
        n, c = stacked.shape[-2:]
        counts, rows = np.bincount(labels, minlength=c), np.arange(n)
        seen = counts - np.eye(c, dtype=np.int64)[labels] > 0
        known, present = seen[rows, labels], counts > 0
        column = np.cumsum(present) - 1
        among = stacked[:, :, known][..., present]
        factors = fit_factors(among, column[labels[known]])
        sums = np.einsum("sq,sqnc->snc", factors, stacked)
        each = [with_unseen(scores, seen, n - 1) for scores in sums]
        right = [float(log_proba[rows, labels].mean()) for log_proba in each]
        return [cls(*found) for found in zip(factors, each, right, strict=True)]


def best_of(tried: Sequence[Weighed]) -> int:
    """The first of the highest likelihood."""
    return int(np.argmax([weighed.likelihood for weighed in tried]))
