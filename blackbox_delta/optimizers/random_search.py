"""Random search: the yardstick that every other optimizer must beat."""

from __future__ import annotations

import numpy as np

from blackbox_delta.optimizers.validation import check_asked, check_settings, check_told
from blackbox_delta.types import Vector


class RandomSearch:
    """Draws every candidate from N(0, σ²I) and remembers the best one.

    Args:
        dimension: d.
        rng: Its own generator.
        population: λ, how many candidates it likes to be asked for.
        sigma: σ, standard deviation of an entry of z.

    Raises:
        ConfigError: A setting makes no sense.
    """

    name = "random"

    def __init__(
        self, dimension: int, rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        check_settings(dimension, population, sigma)
        self.population = population
        self._dimension = dimension
        self._rng = rng
        self._sigma = sigma
        self._best = np.zeros(dimension)
        self._best_loss = np.inf

    @property
    def mean(self) -> Vector:
        """(d,), the best candidate told so far; the origin before any."""
        return self._best.copy()

    def ask(self, count: int) -> Vector:
        """``count`` independent candidates of shape (count, d)."""
        check_asked(count)
        return self._sigma * self._rng.standard_normal((count, self._dimension))

    def tell(self, z: Vector, losses: Vector) -> None:
        """Keeps the best of (λ, d) candidates with losses (λ,). Ties go to the earlier one.

        Raises:
            ConfigError: See :func:`~blackbox_delta.optimizers.validation.check_told`.
        """
        check_told(z, losses, self._dimension)
        if len(losses) and losses.min() < self._best_loss:
            winner = int(losses.argmin())
            self._best, self._best_loss = z[winner].copy(), float(losses[winner])
