"""CMA-ES first, then a local search around its mean.

The first stage is the separable CMA-ES (:mod:`~blackbox_delta.optimizers.cma_es`), the second a
trust region (:mod:`~blackbox_delta.optimizers.trust_region`) in units of the deviations that the
first has learned, along the way that it took and in random directions. CMA-ES finds where to go;
how far is soon measured, which its step size takes long to find out in many dimensions.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.optimizers.cma_es import CMAES
from blackbox_delta.optimizers.generational import GenerationalOptimizer
from blackbox_delta.optimizers.trust_region import TrustRegion

if TYPE_CHECKING:
    from blackbox_delta.types import Vector

#: Of the budget, for the first stage.
SHARE = 0.7
#: Generations that are compared with as many before them to see whether it still improves.
WINDOW = 10


class TwoStage(GenerationalOptimizer):
    """Separable CMA-ES until it stops improving or its share is spent, then a trust region.

    It stops improving when the median of the median losses of ten generations is not below that of
    the ten before; a single lucky or unlucky candidate changes neither.

    Args:
        dimension: d, at least 2.
        rng: Its own generator, for both stages.
        population: λ, at least 4.
        sigma: σ, the initial standard deviation of an entry of z.
        budget: How many candidates the run can pay for, if known.

    Raises:
        ConfigError: A setting makes no sense.
    """

    name = "two-stage"

    def __init__(
        self,
        dimension: int,
        rng: np.random.Generator,
        *,
        population: int,
        sigma: float,
        budget: int | None,
    ) -> None:
        super().__init__(dimension, population=population, sigma=sigma, least=4)
        self._rng = rng
        self._left = None if budget is None else SHARE * budget
        self._medians: deque[float] = deque(maxlen=2 * WINDOW)
        self._first = CMAES(dimension, rng, population=population, sigma=sigma, diagonal=True)
        self._second: TrustRegion | None = None

    @property
    def mean(self) -> Vector:
        """(d,), that of the stage that it is in."""
        return (self._second or self._first).mean

    def _more(self) -> list[Vector]:
        return list((self._second or self._first).ask(1))

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        (self._second or self._first).tell(np.array(generation), losses)
        if self._second is None and self._is_over(losses):
            mean = self._first.mean  # which is also the way to it, from z = 0
            self._second = TrustRegion(
                mean, mean, self._first.deviations, self._rng, population=self.population
            )

    def _is_over(self, losses: Vector) -> bool:
        """Whether the first stage has spent its share or stopped improving."""
        self._medians.append(float(np.median(losses)))
        if self._left is not None:
            self._left -= len(losses)
            if self._left < self.population:
                return True
        if len(self._medians) < 2 * WINDOW:
            return False
        earlier, later = np.median(np.reshape(self._medians, (2, WINDOW)), axis=1)
        return bool(later >= earlier)
