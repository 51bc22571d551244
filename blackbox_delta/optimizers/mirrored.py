"""What optimizers share that compare each step with its mirror image."""

from __future__ import annotations

import numpy as np

from blackbox_delta.optimizers.generational import GenerationalOptimizer
from blackbox_delta.types import Vector


class MirroredOptimizer(GenerationalOptimizer):
    """Asks about pairs m ± c·Δ around its mean m, and moves m when enough pairs are told.

    Half a pair at the end of a generation is left out.

    Args:
        dimension: d.
        rng: Its own generator.
        population: λ, at least 2.
        sigma: σ, the first distance c of a candidate from the mean, in each direction.

    Raises:
        ConfigError: A setting makes no sense.
    """

    def __init__(
        self, dimension: int, rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        super().__init__(dimension, population=population, sigma=sigma, least=2)
        self._rng = rng
        self._sigma = sigma
        self._mean = np.zeros(dimension)
        self._directions: list[Vector] = []

    @property
    def mean(self) -> Vector:
        """(d,), what the candidates stand around."""
        return self._mean.copy()

    # ------------------------------------------------------------------ what families differ in

    def _draw(self) -> Vector:
        """A direction Δ (d,) of entries of variance one."""
        raise NotImplementedError

    @property
    def _distance(self) -> float:
        """c of this generation."""
        raise NotImplementedError

    def _step(self, directions: Vector, upper: Vector, lower: Vector) -> Vector:
        """By how much the mean moves (d,).

        Args:
            directions: Δ of each pair, (p, d).
            upper: Losses at m + c·Δ, (p,).
            lower: Losses at m − c·Δ, (p,).
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ parts

    def _more(self) -> tuple[Vector, Vector]:
        direction = self._draw()
        self._directions.append(direction)
        step = self._distance * direction
        return self._mean + step, self._mean - step

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        pairs = len(generation) // 2
        upper, lower = losses[: 2 * pairs].reshape(pairs, 2).T
        directions = np.array(self._directions[:pairs])
        self._directions = []
        self._mean = self._mean + self._step(directions, upper, lower)
