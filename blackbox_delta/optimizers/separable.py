"""Separable CMA-ES over some of the numbers at a time (Ros & Hansen, 2008; arXiv 1604.00772).

Symbols and constants are those of Hansen's tutorial (2016), with n the numbers that are searched at
the moment. Which ones these are may change between generations, which pycma's cannot: mean,
variance and paths belong to a number and wait for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from blackbox_delta.types import IntArray, Vector


#: What the newest generation has to say in whether steps get longer.
TREND = 0.3
#: A generation changes σ by at most the factor exp(n^-DAMPING).
DAMPING = 0.25


@dataclass(frozen=True)
class _Rates:
    """How fast the variances are learned, from λ candidates in n dimensions.

    Attributes:
        weights: (μ,), of the best candidates, best first.
        mass: μ_eff, how many candidates of equal weight these are worth.
        path, one, many: c_c, c_1 and c_μ.
    """

    weights: Vector
    mass: float
    path: float
    one: float
    many: float

    @classmethod
    def of(cls, count: int, n: int) -> Self:
        raw = math.log((count + 1) / 2) - np.log(np.arange(1, count // 2 + 1))
        weights = raw / raw.sum()
        mass = float(1 / (weights**2).sum())
        path = (4 + mass / n) / (n + 4 + 2 * mass / n)
        # A diagonal is learned faster: Ros & Hansen.
        faster = (n + 2) / 3
        one = min(faster * 2 / ((n + 1.3) ** 2 + mass), 0.5)
        many = faster * 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass)
        return cls(weights, mass, path, one, min(max(many, 0.0), 1 - one))


class SeparableSearch:
    """N(m, σ² diag(C)) around m = 0, of which only the active numbers are drawn and learned.

    Two candidates of a generation stand on either side of the mean, along its last step; σ grows
    where the one ahead is better (Hansen, Atamna & Auger, 2014, "How to assess step-size adaptation
    mechanisms in randomised search"; Hansen, 2008, spends two evaluations more on it). With
    few candidates in many dimensions that answers sooner than the length of a path, and it needs no
    memory of numbers that are new.

    Args:
        dimension: d.
        sigma: σ at first.
        rng: Its own generator.

    Attributes:
        mean: (d,), m.
        active: (n,), places of the numbers that are searched, in order; all of them at first.
    """

    def __init__(self, dimension: int, sigma: float, rng: np.random.Generator) -> None:
        self.mean = np.zeros(dimension)
        self.active: IntArray = np.arange(dimension)
        self._rng = rng
        self._sigma = sigma
        self._variances = np.ones(dimension)
        self._path = np.zeros(dimension)
        self._step = np.zeros(dimension)  # the last one, in units of σ
        self._line: Vector | None = None
        self._trend = 0.0

    def draw(self, place: int) -> Vector:
        """(n,), the draw for a place in the generation, in units of its deviations."""
        normal = self._rng.standard_normal(len(self.active))
        if place == 0:
            self._line = self._ahead(float(np.linalg.norm(normal)))
        if self._line is None or place > 1:
            return normal
        return self._line if place == 0 else -self._line

    def _ahead(self, length: float) -> Vector | None:
        """(n,), the way of the last step; none where the active numbers had no part in it."""
        way = self._step[self.active] / np.sqrt(self._variances[self.active])
        norm = float(np.linalg.norm(way))
        return way * (length / norm) if norm > 0 else None

    def candidate(self, normal: Vector) -> Vector:
        """(d,), what a draw (n,) from N(0, I) leads to; numbers that rest stay at the mean."""
        candidate = self.mean.copy()
        candidate[self.active] += self._sigma * np.sqrt(self._variances[self.active]) * normal
        return candidate

    def update(self, normals: Vector, losses: Vector) -> None:
        """Moves on.

        Args:
            normals: (λ, n), the draws of a generation, at least 2.
            losses: (λ,), what their candidates lost.
        """
        if losses.min() == losses.max():
            return  # they say nothing of where to go, nor of how far
        rates = _Rates.of(len(losses), len(self.active))
        order = np.argsort(losses, kind="stable")
        chosen = normals[order[: len(rates.weights)]]
        step = np.sqrt(self._variances[self.active]) * (rates.weights @ chosen)
        self.mean[self.active] += self._sigma * step
        self._step[:] = 0
        self._step[self.active] = step
        self._learn(chosen, step, rates)
        self._adapt(losses)

    def _adapt(self, losses: Vector) -> None:
        """σ, by the ranks of the two candidates along the last step."""
        if self._line is None:
            return
        ahead = (_rank(losses, 1) - _rank(losses, 0)) / (len(losses) - 1)
        self._trend += TREND * (ahead - self._trend)
        self._sigma *= math.exp(self._trend / len(self.active) ** DAMPING)

    def _learn(self, chosen: Vector, step: Vector, rates: _Rates) -> None:
        """The variances.

        Args:
            chosen: (μ, n), the best draws.
            step: (n,), by how much the mean moved, in units of σ.
            rates: Of this generation.
        """
        path = (1 - rates.path) * self._path[self.active]
        path += math.sqrt(rates.path * (2 - rates.path) * rates.mass) * step
        self._path[self.active] = path
        before = self._variances[self.active]
        self._variances[self.active] = (
            (1 - rates.one - rates.many) * before
            + rates.one * path**2
            + rates.many * before * (rates.weights @ chosen**2)
        )


def _rank(losses: Vector, place: int) -> float:
    """How many candidates are better than this one; those that are level count half."""
    own = losses[place]
    return float((losses < own).sum() + 0.5 * (losses == own).sum())
