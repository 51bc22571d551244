"""Parts that follow one another: of z, of θ, or of anything that is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise


def consecutive(lengths: Iterable[int]) -> Iterator[slice]:
    """Slices of these lengths, from 0 on."""
    return (slice(*ends) for ends in pairwise(accumulate(lengths, initial=0)))
