"""Which numbers of z to search next: a budget of them, divided by importance as in AdaLoRA.

Zhang et al., 2023, arXiv 2303.10512, section 3. Their importance starts from |w ∂L/∂w|, by how
much the loss changes when a weight is taken away. Without a gradient it starts here from how
much the loss changes with a number's own perturbation: their correlation within a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blackbox_delta.types import IntArray, Vector

#: β1 and β2, what smoothed sensitivity and uncertainty keep of earlier generations.
SMOOTHING, SMOOTHING_UNCERTAINTY = 0.85, 0.85
#: What of the budget is divided by length alone, so that no part goes unmeasured.
EXPLORED = 0.1


class Importance:
    """What the parts of z, and the numbers in them, have to do with the loss.

    The numbers of a part are measured together: with λ candidates a generation says next to
    nothing of one number, and a fair deal of the average of many.

    Args:
        parts: Lengths of the consecutive parts of z.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self._lengths = np.array(parts)
        self._part = np.repeat(np.arange(len(parts)), parts)
        self._own = np.zeros(len(self._part))
        self._rested = np.zeros(len(self._part), dtype=np.int64)  # choices that left it out
        self._sensitivity = np.zeros(len(parts))
        self._uncertainty = np.zeros(len(parts))

    @property
    def scores(self) -> Vector:
        """(p,), the importance of an average number of each part, at least 0."""
        # s = Ī · Ū: what is not known well is worth another look.
        return np.maximum(self._sensitivity, 0.0) * self._uncertainty

    def measure(self, active: IntArray, normals: Vector, losses: Vector) -> None:
        """Takes in a generation.

        Args:
            active: (n,), the numbers that it perturbed, at least one in each part.
            normals: (λ, n), the perturbations in units of their deviations.
            losses: (λ,), what came of them.
        """
        seen = sensitivity(normals, losses)
        self._own[active] += (1 - SMOOTHING) * (seen - self._own[active])
        part = self._part[active]
        count = np.bincount(part, minlength=len(self._lengths))
        now = np.bincount(part, seen, minlength=len(self._lengths)) / count
        # Ī, sensitivity smoothing, and Ū, uncertainty quantification.
        self._sensitivity += (1 - SMOOTHING) * (now - self._sensitivity)
        off = np.abs(now - self._sensitivity)
        self._uncertainty += (1 - SMOOTHING_UNCERTAINTY) * (off - self._uncertainty)

    def choose(self, budget: int, active: IntArray) -> IntArray:
        """The numbers to search next, in order.

        A part keeps its most important ones. One that rests counts as its part's average, so
        that it takes the place of one that has said less; the one that has rested longest goes
        first.

        Args:
            budget: How many, from the number of parts to d.
            active: The numbers that are searched now.
        """
        resting = np.ones(len(self._own), dtype=bool)
        resting[active] = False
        # From here on they have been measured as often as the part.
        self._own[resting] = self._sensitivity[self._part[resting]]
        self._rested = np.where(resting, self._rested + 1, 0)
        order = np.lexsort((-self._rested, -self._own, self._part))
        first = np.cumsum(self._lengths) - self._lengths
        within = np.arange(len(order)) - first[self._part]  # the order is part by part
        shares = shared(budget, self.scores, self._lengths)
        return np.sort(order[within < shares[self._part]])


def sensitivity(normals: Vector, losses: Vector) -> Vector:
    """How far each number moved the losses of a generation, (n,); 0 on average where it did not.

    The square of the correlation with the losses' ranks, which no outlier rules, times λ, less
    the 1 that chance makes of it.

    Args:
        normals: (λ, n), perturbations from N(0, I).
        losses: (λ,).
    """
    ranks = np.argsort(np.argsort(losses, kind="stable")) - (len(losses) - 1) / 2
    length = float(np.linalg.norm(ranks))
    return np.asarray((ranks @ normals / length) ** 2 - 1) if length else np.zeros(normals.shape[1])


def shared(budget: int, scores: Vector, lengths: IntArray) -> IntArray:
    """Shares of a budget by importance times length: highest averages (Sainte-Laguë).

    Args:
        budget: From the number of parts to the sum of their lengths.
        scores: (p,), at least 0.
        lengths: (p,), at least 1.

    Returns:
        (p,), at least 1 for each part and at most its length.
    """
    by_length, weights = lengths / lengths.sum(), scores * lengths
    total = weights.sum()
    if total > 0:
        by_length = EXPLORED * by_length + (1 - EXPLORED) * weights / total
    shares = np.ones(len(lengths), dtype=np.int64)
    for _ in range(budget - len(lengths)):
        claims = np.where(shares < lengths, by_length / (2 * shares + 1), -1.0)
        shares[claims.argmax()] += 1
    return shares
