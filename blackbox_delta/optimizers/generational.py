"""What optimizers share that draw a generation and move on once all of it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.pending import Pending
from blackbox_delta.optimizers.validation import check_asked, check_settings, check_told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blackbox_delta.types import Vector


class GenerationalOptimizer:
    """Hands a generation out in whatever portions are asked for; how it is split changes nothing.

    **Any number may be asked and told.** The update comes as soon as at least λ candidates, and
    all that were asked, have been told.

    Args:
        dimension: d.
        population: λ.
        sigma: σ, the initial standard deviation of an entry of z.
        least: The smallest λ that makes sense.

    Raises:
        ConfigError: A setting makes no sense.
    """

    name: str

    def __init__(self, dimension: int, *, population: int, sigma: float, least: int = 1) -> None:
        check_settings(dimension, population, sigma)
        if population < least:
            raise ConfigError(
                f"{self.name} needs a population of at least {least}, not {population}."
            )
        self.population = population
        self._dimension = dimension
        self._drawn: list[Vector] = []  # this generation, in the order in which it was drawn
        self._asked = 0
        self._losses: dict[int, float] = {}  # by position in it
        self._pending: Pending[int] = Pending()

    def ask(self, count: int) -> Vector:
        """``count`` new candidates of shape (count, d)."""
        check_asked(count)
        while len(self._drawn) < self._asked + count:
            self._drawn += self._more()
        portion = self._drawn[self._asked : self._asked + count]
        for position, candidate in enumerate(portion, start=self._asked):
            self._pending.add(candidate, position)
        self._asked += count
        return np.array(portion)

    def tell(self, z: Vector, losses: Vector) -> None:
        """Losses (λ,) for (λ, d) candidates, which may be told in any split and order.

        Raises:
            ConfigError: See :func:`~blackbox_delta.optimizers.validation.check_told`; or a
                candidate was never asked or is told twice.
        """
        check_told(z, losses, self._dimension)
        self._losses.update(zip(self._pending.take(z), losses.tolist(), strict=True))
        if len(self._losses) < self.population or self._pending:
            return
        told = np.array([self._losses[position] for position in range(self._asked)])
        generation = self._drawn[: self._asked]
        self._drawn, self._losses, self._asked = [], {}, 0
        self._update(generation, told)

    # ------------------------------------------------------------------ what families differ in

    def _more(self) -> Sequence[Vector]:
        """The next candidates (d,) of this generation, at least one."""
        raise NotImplementedError

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        """Moves on.

        Args:
            generation: Candidates (d,) in the order in which they were drawn, λ or more.
            losses: Theirs, of the same length.
        """
        raise NotImplementedError
