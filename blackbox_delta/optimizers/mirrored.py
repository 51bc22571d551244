"""What optimizers share that compare each step with its mirror image."""

from __future__ import annotations

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.pending import Pending
from blackbox_delta.optimizers.validation import check_asked, check_settings, check_told
from blackbox_delta.types import Vector


class MirroredOptimizer:
    """Asks about pairs m ± c·Δ around its mean m, and moves m when enough pairs are told.

    **Any number may be asked and told.** Candidates come in pairs, handed out in whatever portions
    are asked for. The mean moves as soon as at least λ candidates, and all that were asked, have
    been told; half a pair at that moment is left out.

    Args:
        dimension: d.
        rng: Its own generator.
        population: λ, at least 2.
        sigma: σ, the first distance c of a candidate from the mean, in each direction.

    Raises:
        ConfigError: A setting makes no sense.
    """

    name: str

    def __init__(
        self, dimension: int, rng: np.random.Generator, *, population: int, sigma: float
    ) -> None:
        check_settings(dimension, population, sigma)
        if population < 2:
            raise ConfigError(f"{self.name} needs a population of at least 2, not {population}.")
        self.population = population
        self._dimension = dimension
        self._rng = rng
        self._sigma = sigma
        self._mean = np.zeros(dimension)
        self._directions: list[Vector] = []
        self._handed_out = 0
        self._losses: dict[int, float] = {}
        self._pending: Pending[int] = Pending()

    @property
    def mean(self) -> Vector:
        """(d,), what the candidates stand around."""
        return self._mean.copy()

    def ask(self, count: int) -> Vector:
        """``count`` candidates of shape (count, d), each beside its mirror image."""
        check_asked(count)
        portion = np.array([self._next() for _ in range(count)])
        first = self._handed_out - count
        for position, candidate in enumerate(portion, start=first):
            self._pending.add(candidate, position)
        return portion

    def tell(self, z: Vector, losses: Vector) -> None:
        """Losses (λ,) for (λ, d) candidates, which may be told in any split and order.

        Raises:
            ConfigError: See :func:`~blackbox_delta.optimizers.validation.check_told`; or a
                candidate was never asked or is told twice.
        """
        check_told(z, losses, self._dimension)
        for row, loss in zip(z, losses, strict=True):
            self._losses[self._pending.take(row)] = float(loss)
        if len(self._losses) >= self.population and not self._pending:
            self._update()

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

    def _next(self) -> Vector:
        pair, mirrored = divmod(self._handed_out, 2)
        if not mirrored:
            self._directions.append(self._draw())
        self._handed_out += 1
        sign = -1.0 if mirrored else 1.0
        return self._mean + sign * self._distance * self._directions[pair]

    def _update(self) -> None:
        pairs = self._handed_out // 2
        told = np.array(
            [[self._losses[2 * pair], self._losses[2 * pair + 1]] for pair in range(pairs)]
        )
        directions = np.array(self._directions[:pairs])
        self._mean = self._mean + self._step(directions, told[:, 0], told[:, 1])
        self._directions, self._handed_out, self._losses = [], 0, {}
