"""The trust region: its models and steps in closed form, noise, and many dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.trust_region import LEAST, TrustRegion
from blackbox_delta.testing import check_optimizer
from blackbox_delta.types import Vector

Loss = Callable[[Vector], Vector]


def region(dimension: int, population: int, *, seed: int = 0, **given: Any) -> TrustRegion:
    start = given.get("start", np.zeros(dimension))
    way = given.get("way", np.zeros(dimension))
    deviations = given.get("deviations", np.ones(dimension))
    return TrustRegion(start, way, deviations, np.random.default_rng(seed), population=population)


def bowl(z: Vector) -> Vector:
    return np.asarray(((z - 0.5) ** 2).sum(axis=1))


def run(optimizer: TrustRegion, loss: Loss, generations: int, noise: float = 0.0) -> float:
    rng = np.random.default_rng(1)
    for _ in range(generations):
        z = optimizer.ask(optimizer.population)
        optimizer.tell(z, loss(z) + noise * rng.standard_normal(len(z)))
    return float(loss(optimizer.mean[None])[0])


@pytest.mark.parametrize("population", [3, 8, 20])
def test_the_contract(population: int) -> None:
    check_optimizer(lambda dimension, seed: region(dimension, population, seed=seed))


def test_it_polls_mirrored_pairs_along_orthonormal_directions() -> None:
    way, deviations = np.linspace(1, 2, 6), np.linspace(0.1, 0.6, 6)
    z = region(6, 13, way=way, deviations=deviations, start=np.ones(6)).ask(13)
    np.testing.assert_array_equal(z[0], np.ones(6))
    moves = (z[1:] - z[0]) / deviations / np.sqrt(6)
    np.testing.assert_allclose(moves[::2], -moves[1::2], atol=1e-12)
    np.testing.assert_allclose(moves[::2] @ moves[::2].T, np.eye(6), atol=1e-12)
    direction = way / deviations
    np.testing.assert_allclose(moves[0], direction / np.linalg.norm(direction))


def test_a_step_ends_at_the_minimum_of_the_subspace() -> None:
    """On a sphere that is the projection of the optimum onto the directions that were polled."""
    optimizer = region(30, 11, deviations=np.full(30, 3.0))
    z = optimizer.ask(11)
    optimizer.tell(z, bowl(z))
    polled, _ = np.linalg.qr((z[1::2] - z[0]).T)
    np.testing.assert_allclose(optimizer.mean, polled @ polled.T @ np.full(30, 0.5), atol=1e-9)


def test_fewer_dimensions_than_pairs_are_no_reason_to_overshoot() -> None:
    optimizer = region(2, 21)
    z = optimizer.ask(21)
    optimizer.tell(z, bowl(z))
    np.testing.assert_allclose(optimizer.mean, 0.5, atol=1e-9)


def test_a_step_that_went_wrong_is_taken_back_and_halved() -> None:
    """From a model that promises a way down for ever, up a steep slope."""

    def valley(z: Vector) -> Vector:
        x = z[:, 0]
        return np.where(x > 1, 20 * (x - 1) ** 2 - 1, -x)

    optimizer = region(1, 3)
    means = []
    for _ in range(2):
        z = optimizer.ask(3)
        optimizer.tell(z, valley(z))
        means.append(optimizer.mean[0])
    np.testing.assert_allclose(means, [1.0, 0.5])
    assert run(optimizer, valley, 60) < -0.9  # of -1, in the kink


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_how_a_generation_is_split_changes_nothing(data: st.DataObject) -> None:
    whole, split = region(6, 9, seed=4), region(6, 9, seed=4)
    for _ in range(4):
        z = whole.ask(9)
        whole.tell(z, bowl(z))
        cuts = sorted(data.draw(st.sets(st.integers(1, 8), max_size=4)))
        asked = [split.ask(int(size)) for size in np.diff([0, *cuts, 9])]
        for portion in data.draw(st.permutations(asked)):
            split.tell(portion, bowl(portion))
    np.testing.assert_array_equal(whole.mean, split.mean)


def test_noise_does_not_carry_it_away() -> None:
    start = float(bowl(np.zeros((1, 20)))[0])
    assert run(region(20, 20), bowl, 100, noise=0.1 * start) < 0.25 * start


def test_flat_and_endless_ground_break_nothing() -> None:
    flat = region(4, 9)
    run(flat, lambda z: np.zeros(len(z)), 60)
    np.testing.assert_array_equal(flat.mean, np.zeros(4))
    endless = region(4, 9)
    run(endless, lambda z: z.sum(axis=1), 200)
    assert np.isfinite(endless.mean).all()
    lost = region(4, 9)
    rng = np.random.default_rng(0)
    run(lost, lambda z: rng.standard_normal(len(z)), 200)
    assert lost._radius >= LEAST


def test_limits_are_named() -> None:
    with pytest.raises(ConfigError, match="trust-region needs a population of at least 3, not 2"):
        region(5, 2)
