"""A trust region in random subspaces (STARS: Dzahini & Wild, 2024, arXiv 2207.06452).

Each generation draws a subspace of as many dimensions as it can measure, fits a quadratic model
there, steps to the model's minimum within a radius, and lets the radius follow what the step
brought. Their losses may be noisy, as long as models and estimates are good often enough.

**How noise is met.** Slopes and curvatures come from mirrored pairs that stand as far apart as
the radius, and a step adds up what all pairs say, where choosing the best of many
candidates would choose the luckiest. What a point is worth is estimated from the whole generation
around it, not from its own loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.optimizers.generational import GenerationalOptimizer

if TYPE_CHECKING:
    from blackbox_delta.types import Vector

#: Factors of the radius after a step that went to its end and was right, and after one that
#: was not.
EXPANSION, CONTRACTION = 1.5, 0.5
#: The radius at first, at least and at most, in deviations an entry.
FIRST, LEAST, MOST = 1.0, 2.0**-12, 2.0**8
#: What the curvature keeps of earlier generations.
MEMORY = 0.7
#: What the direction of the way so far keeps of the way before the last step.
MOMENTUM = 0.5


@dataclass(frozen=True)
class _Model:
    """A quadratic model, diagonal in its directions.

    Attributes:
        centre: (d,), where it stands.
        level: The loss there, as estimated.
        directions: (k, d), orthonormal within each d of them; in units of the deviations.
        slopes: (k,).
        curvatures: (k,).
    """

    centre: Vector
    level: float
    directions: Vector
    slopes: Vector
    curvatures: Vector

    def step(self, radius: float) -> tuple[Vector, bool]:
        """To the minimum within the radius, of shape (d,); and whether the radius ended it."""
        bent = self.curvatures > 0
        along = np.where(
            bent,
            -self.slopes / np.where(bent, self.curvatures, 1.0),
            -np.sign(self.slopes) * radius,
        )
        # Directions beyond d say the same again.
        along *= min(1.0, self.directions.shape[1] / len(along))
        length = float(np.linalg.norm(along))
        ended = length > radius
        return (along * (radius / length) if ended else along) @ self.directions, ended


class TrustRegion(GenerationalOptimizer):
    """Around a point, with its own idea of how far is far in each direction.

    A generation is the point x and pairs x ± Δ·u. The first u is the way that led to x, along
    which there is often more to gain than along any random one; the others are random, and all are
    orthonormal. Where λ is even, the last candidate has no counterpart and is left out.

    Args:
        start: (d,), where it begins.
        way: (d,), a direction that led there; zeros if there is none.
        deviations: (d,), what is far in each entry of z, positive.
        rng: Its own generator.
        population: λ, at least 3.

    Raises:
        ConfigError: A setting makes no sense.
    """

    name = "trust-region"

    def __init__(
        self,
        start: Vector,
        way: Vector,
        deviations: Vector,
        rng: np.random.Generator,
        *,
        population: int,
    ) -> None:
        super().__init__(len(start), population=population, sigma=1.0, least=3)
        self._rng = rng
        self._deviations = deviations
        self._way = way / deviations
        self._point = start.copy()
        self._radius = FIRST * math.sqrt(len(start))
        self._directions: list[Vector] = []
        self._curvature: float | None = None
        self._best: _Model | None = None
        self._ended = False

    @property
    def mean(self) -> Vector:
        """(d,), the point that it stands at."""
        return self._point.copy()

    def _more(self) -> list[Vector]:
        if not self._drawn:
            return [self._point.copy()]
        direction = self._direction()
        self._directions.append(direction)
        move = self._radius * self._deviations * direction
        return [self._point + move, self._point - move]

    def _direction(self) -> Vector:
        """(d,), of length one."""
        count = len(self._directions)
        basis = self._directions[count - count % self._dimension :]
        drawn = self._way if not count and self._way.any() else self._normal()
        for _ in range(2):  # twice, for what rounding left over
            for other in basis:
                drawn = drawn - (drawn @ other) * other
        return np.asarray(drawn / np.linalg.norm(drawn))

    def _normal(self) -> Vector:
        return self._rng.standard_normal(self._dimension)

    def _update(self, generation: list[Vector], losses: Vector) -> None:
        model = self._model(generation[0], losses)
        if self._best is not None and model.level > self._best.level:
            self._radius *= CONTRACTION
        else:
            self._best = model
            self._radius *= EXPANSION if self._ended else 1.0
        side = math.sqrt(self._dimension)
        self._radius = min(max(self._radius, LEAST * side), MOST * side)
        step, self._ended = self._best.step(self._radius)
        self._point = self._best.centre + self._deviations * step
        self._follow(step)

    def _model(self, centre: Vector, losses: Vector) -> _Model:
        """The model around a point, from its loss and those of the pairs after it."""
        pairs = (len(losses) - 1) // 2
        upper, lower = losses[1 : 2 * pairs + 1].reshape(pairs, 2).T
        slopes = (upper - lower) / (2 * self._radius)
        curvatures = (upper + lower - 2 * losses[0]) / self._radius**2
        mean = float(curvatures.mean())
        if self._curvature is not None:
            mean = MEMORY * self._curvature + (1 - MEMORY) * mean
        self._curvature = mean
        # The mean loss of all candidates, less what curvature adds to it at this radius.
        added = 0.5 * mean * self._radius**2 * 2 * pairs / (2 * pairs + 1)
        level = float(losses[: 2 * pairs + 1].mean()) - added
        directions = np.array(self._directions[:pairs])
        self._directions = []
        return _Model(centre, level, directions, slopes, curvatures)

    def _follow(self, step: Vector) -> None:
        length, before = float(np.linalg.norm(step)), float(np.linalg.norm(self._way))
        if length > 0:
            kept = MOMENTUM * length / before * self._way if before > 0 else 0.0
            self._way = step + kept
