"""CMA-ES (Hansen, 2016, arXiv 1604.00772) and its separable form, through ``pycma``.

The separable form (Ros & Hansen, 2008) learns the d variances only, with learning rates
faster by about (d + 2) / 3 and a cost per candidate linear in d.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.generational import GenerationalOptimizer

if TYPE_CHECKING:
    from blackbox_delta.types import Vector


class CMAES(GenerationalOptimizer):
    """CMA-ES from x0 = 0 with a full or a diagonal covariance matrix.

    pycma draws a generation of λ at a time. When more than λ are asked before the update, the
    rest are further draws from the same distribution. An update with more than λ keeps pycma's
    μ = λ/2 parents, chosen among more candidates; the learning rates, which depend on the
    parents' weights alone, stay right.

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
        self.name = "cma-diagonal" if diagonal else "cma"
        super().__init__(dimension, population=population, sigma=sigma, least=4)
        if dimension < 2:
            raise ConfigError(
                "CMA-ES needs a search dimension of at least 2; use the optimizer 'random'."
            )
        self._rng = rng
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
        return self._in_z(self._strategy.mean)

    @property
    def deviations(self) -> Vector:
        """(d,), the search distribution's standard deviation in each direction of z."""
        strategy = self._strategy
        if strategy.gp.isidentity:
            return np.array(strategy.stds, dtype=np.float64)
        # The map is left out of pycma's own.
        origin = self._in_z(np.zeros(self._dimension))
        axes = np.stack([self._in_z(axis) - origin for axis in np.eye(self._dimension)], axis=1)
        axes *= strategy.sigma * strategy.sigma_vec.scaling
        covariance: Vector = axes @ strategy.sm.covariance_matrix @ axes.T
        return np.sqrt(np.diag(covariance))

    def _in_z(self, point: Vector) -> Vector:
        """A point of pycma's own space (d,), which is not z's once a covariance is ill-conditioned.

        It moves the covariance into a linear map then, through which it asks and is told.
        """
        return np.array(self._strategy.gp.pheno(point), dtype=np.float64)

    def _more(self) -> list[Vector]:
        # Two-point adaptation puts its two samples first in a generation, and pycma asks that
        # whatever is drawn after the generation be drawn one at a time.
        number = 1 if self._drawn else self.population
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(self._strategy.ask(number=number))

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        with warnings.catch_warnings():
            # pycma warns about a generation larger than λ, which it handles (class docstring)
            warnings.simplefilter("ignore")
            self._strategy.tell(generation, losses.tolist())
