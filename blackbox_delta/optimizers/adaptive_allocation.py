"""Adaptive allocation: the numbers searched at a time go to the parts of z that matter.

AdaLoRA's idea (Zhang et al., 2023, arXiv 2303.10512) without gradients: a budget of numbers,
smaller than d, is divided among the layers by measured importance, and again every few generations.
There, ranks that were cut off go on being measured by their gradients; here, every part keeps a few
active numbers, from which the part is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.optimizers.allocation import Importance
from blackbox_delta.optimizers.generational import GenerationalOptimizer
from blackbox_delta.optimizers.separable import SeparableSearch
from blackbox_delta.optimizers.validation import check_parts, check_settings

if TYPE_CHECKING:
    from blackbox_delta.types import IntArray, Vector

#: b / d, the share of the numbers that is searched at a time.
ACTIVE = 0.5
#: ΔT, generations between two divisions.
INTERVAL = 5


class AdaptiveAllocation(GenerationalOptimizer):
    """A separable CMA-ES over half of z, which half being decided by what the losses say.

    Numbers that rest stay at their mean, 0 at first, and are not perturbed, so they add nothing
    to the noise in which the others are searched. The budget b is constant: AdaLoRA lowers it
    over a run whose length is known, which that of a search need not be.

    Args:
        parts: Lengths of the consecutive parts of z, two or more.
        rng: Its own generator.
        population: λ, at least 4.
        sigma: σ, the initial standard deviation of an entry of z.
        active: b / d, above 0 and at most 1; a part has at least one active number.
        interval: ΔT, generations between two divisions; ``None`` for never, which leaves the
            first one, by the parts' lengths.

    Raises:
        ConfigError: There is nothing to divide, or a setting makes no sense.
    """

    name = "adaptive-allocation"

    def __init__(
        self,
        parts: Sequence[int],
        rng: np.random.Generator,
        *,
        population: int,
        sigma: float,
        active: float = ACTIVE,
        interval: int | None = INTERVAL,
    ) -> None:
        check_settings(min(parts, default=0), population, sigma)
        check_parts(self.name, parts)
        super().__init__(sum(parts), population=population, sigma=sigma, least=4)
        self._budget = min(max(round(active * self._dimension), len(parts)), self._dimension)
        self._interval = interval
        self._generation = 0
        self._normals: list[Vector] = []
        self._importance = Importance(parts)
        self._search = SeparableSearch(self._dimension, sigma, rng)
        self._divide()

    @property
    def mean(self) -> Vector:
        """(d,), the mean of the search distribution."""
        return self._search.mean.copy()

    @property
    def active(self) -> IntArray:
        """(b,), the numbers of z that are searched now, in order."""
        return self._search.active.copy()

    def _more(self) -> list[Vector]:
        normal = self._search.draw(len(self._normals))
        self._normals.append(normal)
        return [self._search.candidate(normal)]

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        normals = np.array(self._normals[: len(generation)])
        self._normals = []
        self._importance.measure(self._search.active, normals, losses)
        self._search.update(normals, losses)
        self._generation += 1
        if self._interval is not None and self._generation % self._interval == 0:
            self._divide()

    def _divide(self) -> None:
        self._search.active = self._importance.choose(self._budget, self._search.active)
