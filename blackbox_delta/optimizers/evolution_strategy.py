"""An evolution strategy that estimates a gradient (Salimans et al., 2017, arXiv 1703.03864).

With the settings that tune whole language models at a fixed step (Qiu et al., 2025, arXiv
2509.24372): rewards are z-scored, and the mean moves by α = σ/2 times their weighted noise. The
mirrored pairs are those of Salimans et al.; Qiu et al. draw each candidate by itself.
"""

from __future__ import annotations

import numpy as np

from blackbox_delta.optimizers.mirrored import MirroredOptimizer
from blackbox_delta.types import Vector

#: α / σ in the experiments of Qiu et al.
LEARNING_RATE = 0.5


class EvolutionStrategy(MirroredOptimizer):
    """Mirrored Gaussian noise, z-scored rewards, constant σ and step; no covariance is learned."""

    name = "es"

    def _draw(self) -> Vector:
        return self._rng.standard_normal(self._dimension)

    @property
    def _distance(self) -> float:
        return self._sigma

    def _step(self, directions: Vector, upper: Vector, lower: Vector) -> Vector:
        losses = np.concatenate([upper, lower])
        spread = losses.std()
        if spread == 0:
            return np.zeros(self._dimension)
        # Z as in algorithm 2 of Qiu et al., of the two halves of a pair, whose noise is ε and −ε.
        rewards = (lower - upper) / spread
        step = LEARNING_RATE * self._sigma * (rewards @ directions) / len(losses)
        return np.asarray(step)
