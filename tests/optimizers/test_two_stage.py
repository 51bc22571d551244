"""Two stages: what each is by hand, when one follows the other, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import CMAES, TwoStage, make_optimizer
from blackbox_delta.optimizers.trust_region import TrustRegion
from blackbox_delta.types import Optimizer, Vector

Loss = Callable[[Vector], Vector]


def sphere(z: Vector) -> Vector:
    return np.asarray(((z - 0.5) ** 2).sum(axis=1))


def ellipsoid(z: Vector) -> Vector:
    return np.asarray((10.0 ** np.linspace(0, 4, z.shape[1]) * (z - 0.5) ** 2).sum(axis=1))


def rosenbrock(z: Vector) -> Vector:
    head, tail = z[:, :-1], z[:, 1:]
    return np.asarray((100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(axis=1))


def go(optimizer: Optimizer, loss: Loss, generations: int) -> list[Vector]:
    means = []
    for _ in range(generations):
        z = optimizer.ask(optimizer.population)
        optimizer.tell(z, loss(z))
        means.append(optimizer.mean)
    return means


def made(dimension: int, budget: int | None, seed: int = 3, population: int = 8) -> Optimizer:
    return make_optimizer(
        "two-stage", dimension, seed=seed, population=population, budget_candidates=budget
    )


def test_it_is_cma_es_and_then_a_trust_region_around_its_mean() -> None:
    rng = np.random.Generator(np.random.PCG64([3, 2]))
    first = CMAES(5, rng, population=8, sigma=1.0, diagonal=True)
    expected = go(first, ellipsoid, 7)  # 7 of 10 generations
    second = TrustRegion(first.mean, first.mean, first.deviations, rng, population=8)
    expected += go(second, ellipsoid, 3)
    np.testing.assert_array_equal(go(made(5, 80), ellipsoid, 10), expected)


def test_deviations_are_those_of_the_candidates() -> None:
    rng = np.random.default_rng(0)
    first = CMAES(6, rng, population=20, sigma=1.0, diagonal=True)
    go(first, ellipsoid, 15)
    np.testing.assert_allclose(first.ask(4000).std(axis=0), first.deviations, rtol=0.1)


def switched_after(loss: Loss, budget: int | None, generations: int) -> int | None:
    """Generations until the point itself is asked for."""
    optimizer = made(5, budget)
    for number in range(generations):
        z = optimizer.ask(8)
        if np.array_equal(z[0], optimizer.mean):
            return number
        optimizer.tell(z, loss(z))
    return None


def test_without_a_known_budget_it_goes_on_while_it_improves() -> None:
    assert switched_after(sphere, None, 40) is None
    assert switched_after(lambda z: np.ones(len(z)), None, 40) == 20
    assert switched_after(lambda z: np.ones(len(z)), 160, 40) == 14


def test_one_lucky_candidate_is_no_improvement() -> None:
    losses = iter(range(10_000))

    def lucky(z: Vector) -> Vector:
        return np.array([-float(next(losses)), *np.ones(len(z) - 1)])

    assert switched_after(lucky, None, 40) == 20


@pytest.mark.parametrize("loss", [sphere, ellipsoid, rosenbrock])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_it_is_ahead_of_cma_es_in_many_dimensions_on_a_small_budget(
    loss: Loss, noise: float
) -> None:
    """The search that a soft prompt is given: 500 numbers, 300 calls."""
    dimension, generations = 500, 15
    origin = float(loss(np.zeros((1, dimension)))[0])

    def final(name: str, seed: int) -> float:
        rng = np.random.default_rng(seed)
        optimizer = make_optimizer(name, dimension, seed=seed, budget_candidates=20 * generations)
        noisy = lambda z: loss(z) + noise * origin * rng.standard_normal(len(z))  # noqa: E731
        return float(loss(go(optimizer, noisy, generations)[-1][None])[0])

    both = {name: np.median([final(name, seed) for seed in range(3)])
            for name in ("cma-diagonal", "two-stage")}  # fmt: skip
    assert both["two-stage"] < 0.85 * both["cma-diagonal"]


def test_it_converges_as_cma_es_does_in_few() -> None:
    for loss in (sphere, ellipsoid):
        start = float(loss(np.zeros((1, 10)))[0])
        assert loss(go(made(10, 2000, population=20), loss, 100)[-1][None])[0] < 1e-8 * start


def test_limits_are_named() -> None:
    with pytest.raises(ConfigError, match="dimension of at least 2"):
        made(1, None)
    with pytest.raises(ConfigError, match="two-stage needs a population of at least 4, not 3"):
        made(5, None, population=3)
    assert TwoStage.name == "two-stage"
