"""Divide and conquer: the parts' own CMA-ES by hand, and what the division is worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import CMAES, make_optimizer
from blackbox_delta.optimizers.divide_and_conquer import joined
from blackbox_delta.types import Vector

NAME = "divide-and-conquer"


def rosenbrock(z: Vector) -> Vector:
    head, tail = z[:, :-1], z[:, 1:]
    return np.asarray((100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(axis=1))


def in_blocks(loss: Callable[[Vector], Vector], parts: int) -> Callable[[Vector], Vector]:
    """The sum over blocks of z, which do not know of one another."""
    return lambda z: np.sum([loss(block) for block in np.split(z, parts, axis=1)], axis=0)


def ellipsoid(z: Vector) -> Vector:
    """Turned, so that its axes are not those of z."""
    dimension = z.shape[1]
    return np.asarray(
        (10.0 ** np.linspace(0, 4, dimension) * ((z - 0.5) @ _turn(dimension)) ** 2).sum(axis=1)
    )


@cache
def _turn(dimension: int) -> Vector:
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((dimension, dimension)))
    return np.asarray(turn)


def final(
    name: str, loss: Callable[[Vector], Vector], dimension: int, generations: int, **given: Any
) -> float:
    optimizer = make_optimizer(name, dimension, seed=6, population=12, **given)
    for _ in range(generations):
        z = optimizer.ask(12)
        optimizer.tell(z, loss(z))
    return float(loss(optimizer.mean[None])[0])


def test_it_is_a_cma_es_for_each_part_in_turn() -> None:
    rng = np.random.Generator(np.random.PCG64([4, 2]))
    parts = [CMAES(size, rng, population=6, sigma=0.7, diagonal=False) for size in (3, 5)]
    optimizer = make_optimizer(NAME, 8, seed=4, population=6, sigma=0.7, parts=(3, 5))
    for generation in range(6):
        own = parts[generation % 2].ask(6)
        others = np.repeat(parts[1 - generation % 2].mean[None], 6, axis=0)
        expected = np.hstack([own, others] if generation % 2 == 0 else [others, own])
        z = optimizer.ask(6)
        np.testing.assert_array_equal(z, expected)
        losses = ellipsoid(z)
        optimizer.tell(z, losses)
        parts[generation % 2].tell(own, losses)
    np.testing.assert_array_equal(optimizer.mean, np.concatenate([each.mean for each in parts]))


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_how_a_generation_is_split_changes_nothing(data: st.DataObject) -> None:
    whole, split = (make_optimizer(NAME, 6, seed=4, parts=(2, 4)) for _ in range(2))
    for _ in range(5):
        z = whole.ask(20)
        whole.tell(z, ellipsoid(z))
        cuts = sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))
        asked = [split.ask(int(size)) for size in np.diff([0, *cuts, 20])]
        for portion in data.draw(st.permutations(asked)):
            split.tell(portion, ellipsoid(portion))
    np.testing.assert_array_equal(whole.mean, split.mean)


@pytest.mark.parametrize(("loss", "generations"), [(ellipsoid, 300), (rosenbrock, 700)])
def test_it_is_far_ahead_where_the_blocks_do_not_know_of_one_another(
    loss: Any, generations: int
) -> None:
    """An eighth of the generations for each block learns what all of them for all do not."""
    separable = in_blocks(loss, 8)
    divided = final(NAME, separable, 32, generations, parts=(4,) * 8)
    assert divided < 0.1 * final("cma", separable, 32, generations)
    assert divided < 0.1 * final("cma-diagonal", separable, 32, generations)


def test_it_descends_where_they_do() -> None:
    start = float(ellipsoid(np.zeros((1, 12)))[0])
    assert final(NAME, ellipsoid, 12, 300, parts=(4, 4, 4)) < 0.02 * start


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((3, 4), (3, 4)),
        ((1, 4, 2), (5, 2)),
        ((4, 1), (5,)),
        ((1, 1, 1), (3,)),
        ((2, 1, 1), (2, 2)),
        ((2, 2, 1), (2, 3)),
        ((1,), (1,)),
    ],
)
def test_single_numbers_are_joined_with_a_neighbour(
    parts: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert joined(parts) == expected


@pytest.mark.parametrize("parts", [(), (5,)])
def test_nothing_to_divide_is_refused(parts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="5 numbers here are all in one; take the subspace 'bl"):
        make_optimizer(NAME, 5, seed=0, parts=parts)


@pytest.mark.parametrize("parts", [(4, 1), (1, 1, 1)])
def test_too_few_numbers_for_the_parts_are_told(parts: tuple[int, ...]) -> None:
    said = f"in each of the {len(parts)} parts, .* dimension of at least {2 * len(parts)}"
    with pytest.raises(ConfigError, match=said):
        make_optimizer(NAME, sum(parts), seed=0, parts=parts)


def test_limits_are_named() -> None:
    with pytest.raises(ConfigError, match=f"{NAME} needs a population of at least 4"):
        make_optimizer(NAME, 5, seed=0, population=3, parts=(2, 3))
    with pytest.raises(ConfigError, match="Parts of 5 numbers are not those of 6"):
        make_optimizer(NAME, 6, seed=0, parts=(2, 3))
