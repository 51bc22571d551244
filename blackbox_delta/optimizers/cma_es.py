"""CMA-ES (Hansen, 2016, arXiv 1604.00772) and its separable form, through ``pycma``.

The separable form (Ros & Hansen, 2008) learns the d variances only, with learning rates
faster by about (d + 2) / 3 and a cost per candidate linear in d.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.pending import Pending
from blackbox_delta.optimizers.validation import check_asked, check_settings, check_told

if TYPE_CHECKING:
    from blackbox_delta.types import Vector


class CMAES:
    """CMA-ES from x0 = 0 with a full or a diagonal covariance matrix.

    **Any number may be asked and told.** pycma draws a generation of λ at a time, and it is
    handed out in whatever portions are asked for; how it was split changes nothing. When more
    than λ are asked before the update, the rest are further draws from the same distribution.
    The update comes as soon as at least λ candidates, and all that were asked, have been told.
    One with more than λ keeps pycma's μ = λ/2 parents, chosen among more candidates; the
    learning rates, which depend on the parents' weights alone, stay right.

    The step size is pycma's choice: cumulative adaptation, or two-point adaptation for d >= 300.
    pycma's own stopping rules are not consulted: the budget stops a run.

    Args:
        dimension: d, at least 2.
        rng: Its own generator; numpy's global state is neither read nor written.
        population: λ, at least 4.
        sigma: σ, the initial standard deviation of an entry of z.
        diagonal: Whether to keep the covariance matrix diagonal for the whole run.

    Raises:
        ConfigError: A setting makes no sense.
    """

    def __init__(
        self,
        dimension: int,
        rng: np.random.Generator,
        *,
        population: int,
        sigma: float,
        diagonal: bool,
    ) -> None:
        check_settings(dimension, population, sigma)
        if dimension < 2:
            raise ConfigError(
                "CMA-ES needs a search dimension of at least 2; use the optimizer 'random'."
            )
        if population < 4:
            raise ConfigError(f"CMA-ES needs a population of at least 4, not {population}.")
        self.name = "cma-diagonal" if diagonal else "cma"
        self.population = population
        self._dimension = dimension
        self._rng = rng
        self._drawn: list[Vector] = []  # this generation, in the order in which pycma drew it
        self._losses: dict[int, float] = {}  # by position in it
        self._asked = 0
        self._pending: Pending[int] = Pending()
        self._strategy = self._start(sigma, diagonal)

    def _start(self, sigma: float, diagonal: bool) -> Any:
        with warnings.catch_warnings():
            # pycma warns at import when matplotlib, which only its plots need, is missing
            warnings.simplefilter("ignore")
            import cma

        options = {
            "popsize": self.population,
            "CMA_diagonal": diagonal,
            "randn": self._standard_normal,
            "seed": np.nan,  # any number would be refused beside a generator of one's own
            "verbose": -9,
        }
        return cma.CMAEvolutionStrategy(np.zeros(self._dimension), sigma, options)

    def _standard_normal(self, *shape: int) -> Vector:
        return self._rng.standard_normal(shape)

    @property
    def mean(self) -> Vector:
        """(d,), the mean of the search distribution."""
        return np.array(self._strategy.mean, dtype=np.float64)

    def ask(self, count: int) -> Vector:
        """``count`` draws from the search distribution, of shape (count, d)."""
        check_asked(count)
        while len(self._drawn) < self._asked + count:
            self._drawn += self._draw()
        portion = self._drawn[self._asked : self._asked + count]
        for position, candidate in enumerate(portion, start=self._asked):
            self._pending.add(candidate, position)
        self._asked += count
        return np.array(portion)

    def _draw(self) -> list[Vector]:
        # Two-point adaptation puts its two samples first in a generation, and pycma asks that
        # whatever is drawn after the generation be drawn one at a time.
        number = 1 if self._drawn else self.population
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(self._strategy.ask(number=number))

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

    def _update(self) -> None:
        order = range(self._asked)
        with warnings.catch_warnings():
            # pycma warns about a generation larger than λ, which it handles (class docstring)
            warnings.simplefilter("ignore")
            self._strategy.tell(
                [self._drawn[position] for position in order],
                [self._losses[position] for position in order],
            )
        self._drawn, self._losses, self._asked = [], {}, 0
