"""How good the pool can be expected to be, judged on examples that had no part in it.

Held-out predictions of single views are honest but for the few factors that were fitted to them;
the pool's are not, for views and weights were chosen by them. So the whole chain behind a view is
run anew for each fold of the training examples: head, weights and sharpness come from the other
folds alone. It asks the model nothing. Who dropped out of a race was decided with all labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.pooling import best_pool
from blackbox_delta.heads.logistic import stratified_folds
from blackbox_delta.members import pool
from blackbox_delta.types import IntArray, Vector

FOLDS = 5
#: Training examples below which nothing is estimated.
LEAST = 10


def cross_fitted_accuracy(asker: Asker, finished: Sequence[Seen], most: int) -> float | None:
    """Share of right answers over the folds; ``None`` where there are too few examples.

    A class's only example is not counted: without it nobody could know the class.

    Args:
        asker: Fits heads on what was asked already.
        finished: Views that finished.
        most: Views that an answer may take.
    """
    labels = asker.labels
    alone = np.bincount(labels)[labels] == 1
    if np.count_nonzero(~alone) < LEAST:
        return None
    fold_of = stratified_folds(labels, FOLDS)
    folds = [np.flatnonzero((fold_of == k) & ~alone) for k in range(FOLDS)]
    right = [_right(asker, finished, out, most) for out in folds if len(out)]
    return float(np.mean(np.concatenate(right)))


def _right(asker: Asker, finished: Sequence[Seen], out: IntArray, most: int) -> Vector:
    """(m,) whether each of the m examples left out is answered rightly."""
    labels = asker.labels
    rest = np.setdiff1d(np.arange(len(labels)), out)
    parts = [asker.as_of(seen, rest) for seen in finished]
    # On the rest alone, so that weights and sharpness never see the examples left out.
    inner = [replace(part, held_out=part.held_out[rest]) for part in parts]
    pooled = best_pool(inner, labels[rest], most)
    places = [next(i for i, each in enumerate(inner) if each is one) for one in pooled.seen]
    said = np.stack([asker.answers(parts[i], finished[i], out) for i in places])
    answered = np.isfinite(said[:, :, 0])
    right = np.zeros(len(out))
    for place, row in enumerate(out):
        by = np.flatnonzero(answered[:, place])
        if len(by):
            mean = pool(list(said[by, place][:, None]), list(pooled.weights[by]), pooled.sharpness)
            right[place] = float(mean[0].argmax() == labels[row])
    return right
