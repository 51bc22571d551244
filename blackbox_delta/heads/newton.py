"""A few positive factors on scores, by projected Newton steps, for many sets of scores at once.

The loss is convex, has two or three unknowns and must be minimised thousands of times in a run:
all strengths of a head, views and folds. Newton's method on those factors that are not held at a
bound (Bertsekas 1982, "Projected Newton methods for optimization problems with simple
constraints", SIAM J. Control Optim. 20) takes a handful of steps, which the sets share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.types import Vector

# On scores of mean square 1. At least a trace is kept, so that an order is left to go by.
_SMALLEST, _LARGEST = 1e-3, 50.0
_PRECISION = 1e-9  # nats an example that a further step must gain
_MOST_STEPS = 60
_MOST_HALVINGS = 30
# Of the mean curvature: keeps a step finite where terms say the same, or nothing.
_RIDGE = 1e-9
# How near to a bound a factor counts as held by it, at most; nearer and nearer towards the end.
_NEAR = 0.05


def likeliest(terms: Vector, targets: Vector) -> Vector:
    """Factors (s, q) that minimise the cross-entropy of softmax(Σ factor·term) for each of s sets.

    Args:
        terms: (s, q, n, c) scores of mean square about 1.
        targets: (n, c) probabilities that all sets share.
    """
    factors = np.ones(terms.shape[:2])
    losses, proba = _losses(terms, targets, factors)
    for _ in range(_MOST_STEPS):
        slopes, curvatures = _derivatives(terms, targets, proba)
        steps = _steps(factors, slopes, curvatures)
        trial, lower, proba = _descend(terms, targets, factors, steps, losses)
        gain = float((losses - lower).max())
        factors, losses = trial, lower
        if gain < _PRECISION:
            break
    return factors


def _losses(terms: Vector, targets: Vector, factors: Vector) -> tuple[Vector, Vector]:
    """(s,) mean cross-entropies, and (s, n, c) probabilities."""
    scores = np.einsum("sq,sqnc->snc", factors, terms)
    scores -= scores.max(axis=-1, keepdims=True)
    proba = np.exp(scores)
    total = proba.sum(axis=-1, keepdims=True)
    n = len(targets)
    losses = (np.log(total).sum(axis=(1, 2)) - (targets * scores).sum(axis=(1, 2))) / n
    return losses, proba / total


def _derivatives(terms: Vector, targets: Vector, proba: Vector) -> tuple[Vector, Vector]:
    """Slopes (s, q) and curvatures (s, q, q): E[term] - target, and the terms' covariance."""
    n = len(targets)
    weighted = terms * proba[:, None]
    slopes = (weighted - terms * targets).sum(axis=(2, 3)) / n
    means = weighted.sum(axis=-1)  # (s, q, n)
    s, q = terms.shape[:2]
    flat = terms.reshape(s, q, -1)
    crossed = weighted.reshape(s, q, -1) @ flat.transpose(0, 2, 1)
    return slopes, (crossed - means @ means.transpose(0, 2, 1)) / n


def _steps(factors: Vector, slopes: Vector, curvatures: Vector) -> Vector:
    """(s, q) Newton steps of the factors that no bound holds; down the slope for those held.

    A factor that is merely near its bound must count as held, or a step that is cut off there may
    lead the others uphill.
    """
    q = factors.shape[1]
    projected: Vector = factors - np.clip(factors - slopes, _SMALLEST, _LARGEST)
    near: Vector = np.minimum(_NEAR, np.linalg.norm(projected, axis=1, keepdims=True))
    low = (factors <= _SMALLEST + near) & (slopes > 0)
    high = (factors >= _LARGEST - near) & (slopes < 0)
    free: NDArray[np.bool_] = ~(low | high)
    mean = np.trace(curvatures, axis1=1, axis2=2)[:, None, None] / q
    ridged = curvatures + (_RIDGE * mean + np.finfo(float).tiny) * np.eye(q)
    system = np.where(free[:, :, None] & free[:, None, :], ridged, np.eye(q))
    right = -slopes
    solved = np.linalg.solve(system, right[..., None])[..., 0]
    return np.asarray(solved, dtype=np.float64)


def _descend(
    terms: Vector, targets: Vector, factors: Vector, steps: Vector, losses: Vector
) -> tuple[Vector, Vector, Vector]:
    """Factors, losses and probabilities after the longest of the halved steps that do no harm."""
    share = np.ones((len(factors), 1))
    for _ in range(_MOST_HALVINGS):
        trial = np.clip(factors + share * steps, _SMALLEST, _LARGEST)
        lower, proba = _losses(terms, targets, trial)
        worse = lower > losses
        if not worse.any():
            return trial, lower, proba
        share[worse] /= 2
    stay = np.where(worse[:, None], factors, trial)
    return stay, *_losses(terms, targets, stay)
