"""How much each view has to say, and what each further one buys.

Weights are those of a tempered posterior over views (generalised Bayes; Bissiri, Holmes and Walker
2016, arXiv 1306.6430): the likelihood of the held-out predictions of n examples to the power
1/√n, for with few examples the best view is more often lucky than best. A view that is a standard
error worse than another, where losses vary by about a nat, weighs e times less. How much worse it
is, is told on examples that both know (:mod:`.comparing`).

That goes for views of a kind among themselves. The kinds have an equal say: their errors are unlike
one another's, and so are their held-out losses. Examples drawn together resemble one another, which
flatters views that show some of them to the rest. A kind that fails on a task does no harm, for
its heads know it, and their answers are next to uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.auto.asking import Seen, by_kind
from blackbox_delta.auto.comparing import comparable_losses
from blackbox_delta.heads.weighing import fit_sharpness
from blackbox_delta.members import pool
from blackbox_delta.types import IntArray, Vector

#: What the views left out may weigh together.
NEGLIGIBLE = 0.05


@dataclass(frozen=True)
class Pooled:
    """Views that answer together.

    Attributes:
        seen: The views, the weightiest first.
        weights: Theirs, with sum 1.
        sharpness: A factor on their mean log-probability.
        held_out: (n, c) pooled log class probabilities of the training examples, each view's from
            a fit without the example's label; NaN where no view was asked about the example.
            Weights and sharpness have seen all labels.
        accuracy: Share of right answers among them.
        loss: Their mean negative log-probability of the right label.
    """

    seen: tuple[Seen, ...]
    weights: Vector
    sharpness: float
    held_out: Vector
    accuracy: float
    loss: float

    def gain_over(self, before: Pooled, labels: IntArray) -> bool:
        """Whether the held-out loss is lower than before by more than its standard error."""
        rows = np.arange(len(labels))
        gains = self.held_out[rows, labels] - before.held_out[rows, labels]
        gains = gains[np.isfinite(gains)]
        if len(gains) < 2:
            return False
        return bool(gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)))

    @classmethod
    def of(cls, seen: Sequence[Seen], weights: Vector, labels: IntArray) -> Pooled:
        """Pools views with given weights; judged by the examples that one of them was asked about.

        A view that shows examples, or was tuned on them, may answer alone.
        """
        shares = weights / weights.sum()
        mean = _pooled(seen, shares)
        known = np.flatnonzero(np.isfinite(mean[:, 0]))
        sharpness = fit_sharpness(mean[known], labels[known])
        held_out = np.full_like(mean, np.nan)
        held_out[known] = pool([mean[known]], [1.0], sharpness)
        truth = held_out[known, labels[known]]
        accuracy = float((held_out[known].argmax(axis=1) == labels[known]).mean())
        return cls(tuple(seen), shares, sharpness, held_out, accuracy, float(-truth.mean()))


def _pooled(seen: Sequence[Seen], shares: Vector) -> Vector:
    """(n, c) weighted means over the views that were asked about an example; NaN where none was."""
    stacked = np.stack([each.held_out for each in seen])
    known = np.isfinite(stacked[:, :, 0])
    weight = shares[:, None] * known
    total = weight.sum(axis=0)
    # Where only views of no weight know an example, they share its answer equally.
    asked = known.sum(axis=0)
    alone = known / np.where(asked > 0, asked, 1)
    weight = np.where(total > 0, weight / np.where(total > 0, total, 1.0), alone)
    result: Vector = np.einsum("mn,mnc->nc", weight, np.where(known[:, :, None], stacked, 0.0))
    result[asked == 0] = np.nan
    return result


def weigh(seen: Sequence[Seen], labels: IntArray) -> Vector:
    """(m,) weights with sum 1, the same sum for each kind."""
    kinds = by_kind(seen)
    loss = dict(zip(seen, comparable_losses(seen, labels), strict=True))
    weight: dict[Seen, float] = {}
    for kind in kinds:
        losses = np.array([loss[each] for each in kind])
        say = np.exp(-np.sqrt(len(labels)) * (losses - losses.min()))
        weight |= zip(kind, say / say.sum() / len(kinds), strict=True)
    return np.array([weight[each] for each in seen])


def best_pool(seen: Sequence[Seen], labels: IntArray, most: int) -> Pooled:
    """At most ``most`` views, those of little weight left out."""
    weights, kept = _kept(seen, labels, most)
    return _first(seen, weights, kept, labels)


def steps(seen: Sequence[Seen], labels: IntArray, most: int) -> list[Pooled]:
    """The one view that weighs most, the two, … up to :func:`best_pool`.

    Each is what an example answered with so many queries gets.
    """
    weights, kept = _kept(seen, labels, most)
    return [_first(seen, weights, kept[:m], labels) for m in range(1, len(kept) + 1)]


def _kept(seen: Sequence[Seen], labels: IntArray, most: int) -> tuple[Vector, IntArray]:
    """All weights, and who may answer, the weightiest first."""
    weights = weigh(seen, labels)
    order = np.argsort(-weights, kind="stable")
    enough = int(np.searchsorted(np.cumsum(weights[order]), 1.0 - NEGLIGIBLE)) + 1
    return weights, order[: min(most, enough)]


def _first(seen: Sequence[Seen], weights: Vector, kept: IntArray, labels: IntArray) -> Pooled:
    return Pooled.of([seen[i] for i in kept], weights[kept], labels)
