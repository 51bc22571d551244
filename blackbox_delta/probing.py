"""How large a search's first steps are: as large as they may be without doing harm."""

from __future__ import annotations

import numpy as np

from blackbox_delta.types import Vector

#: Steps that are probed, in units of the subspace's own scale, and what is taken if all do harm.
PROBED, SMALLEST = (1.0, 0.3, 0.1), 0.03
#: Candidates that each step is probed with.
PROBES = 2


def probe_directions(dimension: int, seed: int) -> Vector:
    """(PROBES, d), each entry of variance one: what the steps are multiples of."""
    return np.random.default_rng([seed, 3]).standard_normal((PROBES, dimension))


def does_no_harm(moved: Vector) -> bool:
    """Whether losses, on average, rise by no more than their standard error.

    Args:
        moved: (n,) by how much each example's loss is higher than without the step.
    """
    return bool(moved.mean() <= moved.std(ddof=1) / np.sqrt(len(moved)))
