"""Which views are better, though not all of them are judged on the same examples.

A view that shows some examples is judged on the others, and mean losses over different examples
compare the examples too: with 32 of them, one hard text more or less outweighs what sets views
apart. So a loss is taken to be the sum of a part of the view's and a part of the example's, both
fitted by least squares (a two-way layout with unequal numbers: Yates 1934, "The analysis of
multiple classifications with unequal numbers in the different classes", JASA 29, 51-66). Views are
thereby compared on examples that they share, or that others share with both of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blackbox_delta.auto.asking import Seen
from blackbox_delta.types import IntArray, Vector

_TOLERANCE = 1e-9  # of the largest singular value; the smallest is zero
_DIGITS = 12  # so that equals tie


def comparable_losses(seen: Sequence[Seen], labels: IntArray) -> Vector:
    """(m,) the views' mean held-out losses in nats, as if each knew all examples that any knows.

    Of a view that does, it is the mean. Views that no chain of shared examples connects are taken
    to be equally good on average; the default view, which is asked about every example, connects
    all.
    """
    losses = np.stack([each.losses(labels) for each in seen])
    losses = losses[:, np.isfinite(losses).any(axis=0)]
    known = np.isfinite(losses)
    share = known / known.sum(axis=0)
    losses = np.where(known, losses, 0.0)
    means = (share * losses).sum(axis=0)
    # Normal equations after the examples' parts are eliminated: the Laplacian of shared examples.
    laplacian = np.diag(known.sum(axis=1)) - share @ known.T
    excess = np.where(known, losses - means, 0.0).sum(axis=1)
    of_views = np.linalg.lstsq(laplacian, excess, rcond=_TOLERANCE)[0]
    of_examples = means - of_views @ share
    result: Vector = np.round(of_views + of_examples.mean(), _DIGITS)
    return result


def ranked(seen: Sequence[Seen], labels: IntArray) -> list[Seen]:
    """The views, the best first."""
    order = np.argsort(comparable_losses(seen, labels), kind="stable") if seen else ()
    return [seen[i] for i in order]
