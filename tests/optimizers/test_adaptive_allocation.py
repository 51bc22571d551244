"""Adaptive allocation: it finds the parts that matter, and what that is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import AdaptiveAllocation, make_optimizer
from blackbox_delta.optimizers.adaptive_allocation import INTERVAL
from blackbox_delta.types import Vector

NAME = "adaptive-allocation"
#: Ten numbers for each of eight layers, of which the loss depends on two.
PARTS = (10,) * 8
IMPORTANT = (2, 5)


def few(z: Vector) -> Vector:
    """Of losses that depend on the important parts only."""
    parts = np.split(z, 8, axis=1)
    return np.asarray(sum(((parts[part] - 0.7) ** 2).sum(axis=1) for part in IMPORTANT))


def made(seed: int, interval: int | None = INTERVAL) -> AdaptiveAllocation:
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    return AdaptiveAllocation(PARTS, rng, population=20, sigma=1.0, interval=interval)


def share(optimizer: AdaptiveAllocation) -> float:
    """Of the active numbers, how many are in the important parts."""
    return float(np.isin(optimizer.active // 10, IMPORTANT).mean())


def go(optimizer: AdaptiveAllocation, generations: int, noise: float = 0.0) -> list[float]:
    """The important parts' share before each generation."""
    rng, shares = np.random.default_rng(7), []
    for _ in range(generations):
        shares.append(share(optimizer))
        z = optimizer.ask(20)
        optimizer.tell(z, few(z) + noise * rng.standard_normal(20))
    return shares


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_it_finds_out_which_parts_matter(noise: float) -> None:
    equal = len(IMPORTANT) / len(PARTS)
    shares = np.mean([go(made(seed), 30, noise) for seed in range(6)], axis=0)
    assert shares[:INTERVAL] == pytest.approx(equal)
    assert shares[-2 * INTERVAL :].mean() > 1.4 * equal
    fixed = go(made(0, None), 30, noise)
    assert fixed == pytest.approx([equal] * 30)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_it_ends_lower_than_an_equal_division(noise: float) -> None:
    losses: dict[int | None, list[float]] = {INTERVAL: [], None: []}
    for interval, found in losses.items():
        for seed in range(5):
            optimizer = made(seed, interval)
            go(optimizer, 40, noise)
            found.append(float(few(optimizer.mean[None])[0]))
    assert np.mean(losses[INTERVAL]) < 0.5 * np.mean(losses[None])


def test_half_of_the_numbers_rest_at_a_time() -> None:
    optimizer = made(1)
    for _ in range(12):
        mean, active = optimizer.mean, optimizer.active
        resting = np.setdiff1d(np.arange(80), active)
        assert len(active) == 40
        assert set(active // 10) == set(range(8))  # each part goes on being measured
        z = optimizer.ask(20)
        np.testing.assert_array_equal(z[:, resting], np.repeat(mean[None, resting], 20, axis=0))
        optimizer.tell(z, few(z))
        np.testing.assert_array_equal(optimizer.mean[resting], mean[resting])


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_how_a_generation_is_split_changes_nothing(data: st.DataObject) -> None:
    whole, split = (made(4) for _ in range(2))
    for _ in range(7):
        z = whole.ask(20)
        whole.tell(z, few(z))
        cuts = sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))
        asked = [split.ask(int(size)) for size in np.diff([0, *cuts, 20])]
        for portion in data.draw(st.permutations(asked)):
            split.tell(portion, few(portion))
    np.testing.assert_array_equal(whole.mean, split.mean)
    np.testing.assert_array_equal(whole.active, split.active)


def test_nothing_to_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 numbers here are all in one; take the subspace 'bl"):
        make_optimizer(NAME, 5, seed=0)
    with pytest.raises(ConfigError, match="at least 4"):
        make_optimizer(NAME, 5, seed=0, population=3, parts=(2, 3))
