"""EGGROLL: an evolution strategy along seeded directions of low rank (Sarkar et al., 2025).

"Evolution strategies at the hyperscale", arXiv 2511.16652, algorithm 1: M ← M + α/N Σ f_i E_i,
from the fitnesses f_i at M + σ E_i with E_i = A_i B_iᵀ / √r. In the subspace ``low-rank`` the j-th
number of z weighs the j-th such direction, so each mirrored pair has a number of z of its own, and
what was learned from it is that number: a weight and a seed in place of a matrix.
"""

from __future__ import annotations

import math

import numpy as np

from blackbox_delta.optimizers.evolution_strategy import EvolutionStrategy
from blackbox_delta.types import Vector

#: N at which α / σ is that of the evolution strategy; it grows with N.
POPULATION = 20


class EggRoll(EvolutionStrategy):
    """The evolution strategy, each pair of it along a number of z that was not used before.

    A perturbation is as long as one of normal numbers, σ √d. α grows with the population, so that
    a pair moves the mean by the same whether few or many are told at a time: directions that
    nothing has measured before have nothing to average. (The authors' own code has it grow with
    √N.) Then t candidates move the mean by about √(t/2) / 20 of a perturbation, 0.6 after 300.

    When all d numbers are used, after 2 d candidates, they are used again, in another order. That
    is no part of the paper, where every direction is new: the k-th time a number moves by 1/√k of
    α, for rewards are z-scored however little is left to gain.
    """

    name = "eggroll"

    def __init__(
        self, dimension: int, rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        super().__init__(dimension, rng, population=population, sigma=sigma)
        self._unused: list[int] = []
        self._uses = np.zeros(dimension)

    def _draw(self) -> Vector:
        if not self._unused:
            self._unused = self._rng.permutation(self._dimension).tolist()
        direction = np.zeros(self._dimension)
        direction[self._unused.pop()] = math.sqrt(self._dimension)
        return direction

    def _step(self, directions: Vector, upper: Vector, lower: Vector) -> Vector:
        self._uses += directions.any(axis=0)
        # Pairs beyond d say the same again, and are averaged.
        growth = 2 * min(len(directions), self._dimension) / POPULATION
        step = growth * super()._step(directions, upper, lower)
        return np.asarray(step / np.sqrt(np.maximum(self._uses, 1)))
