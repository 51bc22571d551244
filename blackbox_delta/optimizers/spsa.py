"""Simultaneous perturbation (Spall, 1992, IEEE Trans. Automatic Control 37): two-point estimates.

MeZO (Malladi et al., 2023, arXiv 2305.17333) is its form with one pair a step. Gains and their
exponents are those of Spall (1998, "Implementation of the simultaneous perturbation algorithm").
"""

from __future__ import annotations

from statistics import median

import numpy as np

from blackbox_delta.optimizers.mirrored import MirroredOptimizer
from blackbox_delta.types import Vector

#: Exponents of the gains a_k = a / (A + k + 1)^α and c_k = c / (k + 1)^γ.
ALPHA, GAMMA = 0.602, 0.101
#: A, a tenth of the steps that a run of some hundred generations takes.
STABILITY = 10
#: Gradients that tell what length is usual.
MEASURED = 10


class SPSA(MirroredOptimizer):
    """Signs as directions, falling steps, averaged over λ/2 pairs.

    A gradient of the usual length makes a step of σ·√d / 2, half a perturbation, at first; a longer
    one makes none that is longer. What is usual is the median of the first ten. So the size of the
    losses does not matter, a first gradient that is small by chance does not make the search run
    off, and one candidate that loses everything does not end it.
    """

    name = "spsa"

    def __init__(
        self, dimension: int, rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        super().__init__(dimension, rng, population=population, sigma=sigma)
        self._generation = 0
        self._lengths: list[float] = []

    def _draw(self) -> Vector:
        return np.asarray(self._rng.choice([-1.0, 1.0], self._dimension))

    @property
    def _distance(self) -> float:
        return float(self._sigma / (self._generation + 1) ** GAMMA)

    def _step(self, directions: Vector, upper: Vector, lower: Vector) -> Vector:
        # Δ has entries ±1, so that 1/Δ = Δ (Spall, 1992, eq. 2.2).
        slopes = (upper - lower) / (2 * self._distance)
        gradient = slopes @ directions / len(slopes)
        length = float(np.linalg.norm(gradient))
        if length > 0 and len(self._lengths) < MEASURED:
            self._lengths.append(length)
        longest = 0.5 * self._sigma * np.sqrt(self._dimension)
        longest *= ((STABILITY + 1) / (STABILITY + self._generation + 1)) ** ALPHA
        self._generation += 1
        return np.asarray(-longest * gradient / max(median(self._lengths or [1.0]), length))
