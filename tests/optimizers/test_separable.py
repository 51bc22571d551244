"""The separable search: pycma beside it, and numbers that rest."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox_delta.optimizers import CMAES
from blackbox_delta.optimizers.separable import SeparableSearch
from blackbox_delta.types import Vector


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ellipsoid(z: Vector) -> Vector:
    return np.asarray((10.0 ** np.linspace(0, 3, z.shape[1]) * (z - 0.7) ** 2).sum(axis=1))


def generation(search: SeparableSearch, population: int) -> tuple[Vector, Vector]:
    normals = np.array([search.draw(place) for place in range(population)])
    return normals, np.array([search.candidate(normal) for normal in normals])


def searched(search: SeparableSearch, generations: int) -> float:
    for _ in range(generations):
        normals, z = generation(search, 12)
        search.update(normals, ellipsoid(z))
    return float(ellipsoid(search.mean[None])[0])


@pytest.mark.parametrize(("dimension", "generations"), [(10, 100), (60, 150)])
def test_it_is_as_good_as_pycma(dimension: int, generations: int) -> None:
    ours, theirs = [], []
    for seed in range(3):
        ours.append(searched(SeparableSearch(dimension, 1.0, rng(seed)), generations))
        other = CMAES(dimension, rng(seed), population=12, sigma=1.0, diagonal=True)
        for _ in range(generations):
            z = other.ask(12)
            other.tell(z, ellipsoid(z))
        theirs.append(float(ellipsoid(other.mean[None])[0]))
    assert np.median(ours) < 3 * np.median(theirs)


def test_numbers_that_rest_are_left_alone_and_wait() -> None:
    search = SeparableSearch(20, 1.0, rng(1))
    searched(search, 10)
    before, search.active = search.mean.copy(), np.arange(0, 20, 2)
    _, z = generation(search, 12)
    np.testing.assert_array_equal(z[:, 1::2], np.repeat(before[None, 1::2], 12, axis=0))
    assert (z[:, ::2] != before[::2]).all()
    searched(search, 5)
    np.testing.assert_array_equal(search.mean[1::2], before[1::2])


def test_it_converges_while_numbers_take_turns() -> None:
    search = SeparableSearch(10, 1.0, rng(2))
    for turn in range(60):
        search.active = np.arange(turn % 2, 10, 2)
        reached = searched(search, 5)
    assert reached < 1e-6


def test_two_candidates_stand_on_either_side_of_the_mean() -> None:
    search = SeparableSearch(6, 1.0, rng(3))
    first, _ = generation(search, 6)
    assert not np.array_equal(first[0], -first[1])  # there was no step yet
    search.update(first, np.arange(6.0))
    step = search.mean.copy()
    normals, z = generation(search, 6)
    np.testing.assert_array_equal(normals[0], -normals[1])
    np.testing.assert_allclose(np.cross((z[0] - step)[:3], step[:3]), 0, atol=1e-12)


def test_losses_that_are_level_move_nothing() -> None:
    search, same = SeparableSearch(6, 1.0, rng(4)), SeparableSearch(6, 1.0, rng(4))
    for each in (search, same):
        each.update(generation(each, 8)[0], np.arange(8.0))
    before, normals = search.mean.copy(), generation(search, 8)[0]
    generation(same, 8)
    search.update(normals, np.full(8, 3.0))
    np.testing.assert_array_equal(search.mean, before)
    np.testing.assert_array_equal(generation(search, 8)[1], generation(same, 8)[1])


def test_a_tie_along_the_last_step_says_nothing_of_how_far_to_go() -> None:
    def next_width(losses: list[float]) -> float:
        search = SeparableSearch(4, 1.0, rng(5))
        search.update(generation(search, 4)[0], np.arange(4.0))
        search.update(generation(search, 4)[0], np.array(losses))
        normals, z = generation(search, 400)
        return float(np.abs((z - search.mean) / normals).mean())

    behind, tied, ahead = map(next_width, ([9, 5, 1, 2], [9, 9, 1, 2], [5, 9, 1, 2]))
    assert behind < tied < ahead
