"""Divide and conquer: a CMA-ES for each part of z, in turn (Sun et al., 2022, arXiv 2205.11200).

Algorithm 1 of BBTv2, where a part is the z of one layer. Each has a covariance matrix of its own,
which a few numbers learn fast; what the parts do to one another is met in the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.cma_es import CMAES
from blackbox_delta.optimizers.generational import GenerationalOptimizer
from blackbox_delta.optimizers.validation import check_parts, check_settings
from blackbox_delta.slices import consecutive

if TYPE_CHECKING:
    from blackbox_delta.types import Vector

#: Numbers that a CMA-ES needs.
_LEAST = 2


class DivideAndConquer(GenerationalOptimizer):
    """One generation for the first part, one for the second, …, and again from the first.

    Meanwhile the other parts stand at their means; BBTv2 takes their best candidates, which a noisy
    loss flatters. A part of a single number is joined with its neighbour. A round of all parts
    takes λ candidates for each.

    Args:
        parts: Lengths of the consecutive parts of z.
        rng: Its own generator, shared by the parts.
        population: λ of each part, at least 4.
        sigma: σ, the initial standard deviation of an entry of z.

    Raises:
        ConfigError: There is nothing to divide, or a setting makes no sense.
    """

    name = "divide-and-conquer"

    def __init__(
        self, parts: Sequence[int], rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        check_settings(min(parts, default=0), population, sigma)
        lengths = joined(parts)
        if len(parts) > len(lengths) == 1:
            raise ConfigError(
                f"{self.name} needs two numbers of z or more in each of the {len(parts)} parts, "
                f"and there are {sum(parts)}; give a dimension of at least {2 * len(parts)}"
            )
        check_parts(self.name, lengths)
        super().__init__(sum(lengths), population=population, sigma=sigma, least=4)
        self._parts = list(consecutive(lengths))
        self._conquerors = [
            CMAES(length, rng, population=population, sigma=sigma, diagonal=False)
            for length in lengths
        ]
        self._turn = 0  # j of Algorithm 1

    @property
    def mean(self) -> Vector:
        """(d,), the parts' means side by side."""
        return np.concatenate([each.mean for each in self._conquerors])

    def _more(self) -> list[Vector]:
        # Algorithm 1, "evaluate": what all layers hold, of which one is searched.
        candidate = self.mean
        candidate[self._parts[self._turn]] = self._conquerors[self._turn].ask(1)[0]
        return [candidate]

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        part = self._parts[self._turn]
        own = np.array([candidate[part] for candidate in generation])
        self._conquerors[self._turn].tell(own, losses)  # "update" and "replace"
        self._turn = (self._turn + 1) % len(self._parts)  # its inner loop


def joined(parts: Sequence[int]) -> tuple[int, ...]:
    """Lengths of at least two: a shorter part is joined with the next, or the one before it.

    Args:
        parts: Lengths, each at least 1.
    """
    lengths: list[int] = []
    for part in parts:
        if lengths and lengths[-1] < _LEAST:
            lengths[-1] += part
        else:
            lengths.append(part)
    if len(lengths) > 1 and lengths[-1] < _LEAST:
        lengths[-2:] = [sum(lengths[-2:])]
    return tuple(lengths)
