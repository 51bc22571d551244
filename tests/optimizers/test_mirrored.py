"""Optimizers that compare each step with its mirror image: their estimates and their steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.types import Vector

NAMES = ["es", "eggroll", "spsa"]


def told(name: str, loss: Any, count: int, **settings: Any) -> Any:
    optimizer = make_optimizer(name, 8, seed=5, population=count, **settings)
    z = optimizer.ask(count)
    optimizer.tell(z, loss(z))
    return optimizer, z


@pytest.mark.parametrize("name", NAMES)
def test_candidates_stand_opposite_one_another(name: str) -> None:
    optimizer, _ = told(name, lambda z: z.sum(axis=1), 10, sigma=0.5)
    around = optimizer.mean
    z = optimizer.ask(6)
    np.testing.assert_allclose(z[::2] + z[1::2], 2 * np.stack([around] * 3), atol=1e-12)
    assert np.abs(around).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_on_a_slope_the_mean_goes_straight_down(name: str) -> None:
    slope = np.linspace(-2, 3, 8)
    optimizer, _ = told(name, lambda z: z @ slope, 20_000)
    step = optimizer.mean
    cosine = -step @ slope / np.linalg.norm(step) / np.linalg.norm(slope)
    assert cosine > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_size_nor_the_level_of_losses_matters(name: str) -> None:
    def bowl(z: Vector) -> Vector:
        return np.asarray(((z - 1.0) ** 2).sum(axis=1))

    one, _ = told(name, bowl, 20)
    other, _ = told(name, lambda z: 1000 * bowl(z) - 7, 20)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9)


def test_the_step_of_the_evolution_strategy_is_the_published_one() -> None:
    """θ + α (1/N) Σ Z_n ε_n with Z the standardised rewards and α = σ/2, over all N candidates."""
    sigma = 0.3
    optimizer, z = told("es", lambda z: (z**3).sum(axis=1), 12, sigma=sigma)
    rewards = -(z**3).sum(axis=1)
    standardised = (rewards - rewards.mean()) / rewards.std()
    expected = 0.5 * sigma * (standardised @ (z / sigma)) / 12
    np.testing.assert_allclose(optimizer.mean, expected, atol=1e-12)


def test_the_step_of_spsa_follows_its_gains() -> None:
    """g = (y+ - y-) / (2 c Δ), averaged; a_k and c_k fall with Spall's exponents."""
    optimizer, z = told("spsa", lambda z: (z**3).sum(axis=1), 6, sigma=0.2)

    def gradient(around: Vector, z: Vector) -> Vector:
        moves = z[::2] - around
        rises = ((z[::2] ** 3).sum(axis=1) - (z[1::2] ** 3).sum(axis=1))[:, None]
        return np.asarray((rises / (2 * moves)).mean(axis=0))

    first, longest = gradient(np.zeros(8), z), 0.5 * 0.2 * np.sqrt(8)
    np.testing.assert_allclose(optimizer.mean, -longest * first / np.linalg.norm(first))

    before = optimizer.mean
    z = optimizer.ask(6)
    np.testing.assert_allclose(np.abs(z - before), 0.2 / 2**0.101)
    optimizer.tell(z, (z**3).sum(axis=1))
    second = gradient(before, z)
    lengths = [float(np.linalg.norm(each)) for each in (first, second)]
    step = -longest / max(np.median(lengths), lengths[1]) * (11 / 12) ** 0.602 * second
    np.testing.assert_allclose(optimizer.mean, before + step)


def test_spsa_never_runs_off() -> None:
    """With few pairs a first gradient is small by chance; on a bowl too long steps double."""
    ends = []
    for seed in range(50):
        optimizer: Any = make_optimizer("spsa", 20, seed=seed, population=4, sigma=1.0)
        for _ in range(60):
            z = optimizer.ask(4)
            optimizer.tell(z, ((z - 1.0) ** 2).sum(axis=1))
        ends.append(float(((optimizer.mean - 1.0) ** 2).sum()))
    assert max(ends) < 20 / 5


@pytest.mark.parametrize("name", NAMES)
def test_one_candidate_that_loses_everything_does_not_end_the_search(name: str) -> None:
    def end(*, spoiled: bool) -> float:
        optimizer: Any = make_optimizer(name, 50, seed=3, population=20)
        for generation in range(50):
            z = optimizer.ask(20)
            losses = ((z - 1.0) ** 2).mean(axis=1)
            losses[4] = 100.0 if spoiled and generation == 2 else losses[4]
            optimizer.tell(z, losses)
        return float(((optimizer.mean - 1.0) ** 2).mean())

    assert end(spoiled=True) < max(2 * end(spoiled=False), 0.01)


@pytest.mark.parametrize("name", NAMES)
def test_flat_ground_moves_nothing(name: str) -> None:
    optimizer, _ = told(name, lambda z: np.zeros(len(z)), 7)
    np.testing.assert_array_equal(optimizer.mean, np.zeros(8))


@pytest.mark.parametrize("name", NAMES)
def test_a_population_of_one_has_no_mirror_image(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs a population of at least 2, not 1"):
        make_optimizer(name, 8, seed=0, population=1)
