"""EGGROLL: against its algorithm on matrices with noise that is stored, and how far it gets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.subspaces import LowRankSubspace
from blackbox_delta.types import Vector

SHAPES = ((6, 5), (4, 3), (7, 1))
SIZE = 6 * 5 + 4 * 3 + 7


def loss_of(matrices: list[Vector]) -> float:
    """Of three matrices, neither convex nor symmetric."""
    x = np.linspace(-1, 2, 5)
    first, second, third = matrices
    hidden = np.tanh(first @ x + 1)
    return float(((second @ hidden[:3] - 1) ** 2).sum() + (third[:, 0].sum() - 2) ** 2)


def eggroll(
    matrices: list[Vector], noise: list[list[Vector]], sigma: float, alpha: float
) -> list[Vector]:
    """Algorithm 1 of Sarkar et al., with both signs of each E_i and fitnesses z-scored."""
    signed = [(sign, each) for each in noise for sign in (1, -1)]
    fitness = np.array(
        [
            -loss_of([m + sign * sigma * e for m, e in zip(matrices, each, strict=True)])
            for sign, each in signed
        ]
    )
    scored = (fitness - fitness.mean()) / fitness.std()
    updates = [
        sum(f * sign * each[k] for f, (sign, each) in zip(scored, signed, strict=True))
        for k in range(len(matrices))
    ]
    return [m + alpha * u / len(signed) for m, u in zip(matrices, updates, strict=True)]


def split(theta: Vector) -> list[Vector]:
    ends = np.cumsum([math.prod(shape) for shape in SHAPES])[:-1]
    parts = np.split(theta, ends)
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


@pytest.mark.parametrize(("population", "rank"), [(6, 1), (20, 1), (8, 3)])
def test_it_moves_matrices_as_published(population: int, rank: int) -> None:
    dimension, scale, sigma = 40, 0.2, 0.7
    subspace = LowRankSubspace(dimension, SIZE, 5, scale, SHAPES, rank)
    # Sums of r signs, which are whole numbers, and of these A Bᵀ / √r of each direction.
    projected = subspace.project(np.eye(dimension), np.zeros(SIZE, np.float32))
    products = np.rint(projected.astype(np.float64) * math.sqrt(dimension * rank) / scale)
    stored = products / math.sqrt(rank)
    optimizer = make_optimizer("eggroll", dimension, seed=3, population=population, sigma=sigma)
    matrices = split(np.zeros(SIZE))
    for _ in range(2 * dimension // population):  # all directions
        z = optimizer.ask(population)
        used = np.abs(z[::2] - z[1::2]).argmax(axis=1)
        theta = scale / math.sqrt(dimension) * z @ stored
        losses = np.array([loss_of(split(each)) for each in theta])
        optimizer.tell(z, losses)
        noise = [split(stored[j]) for j in used]
        alpha = scale * sigma / 2 * population / 20
        matrices = eggroll(matrices, noise, scale * sigma, alpha)
        expected = np.concatenate([each.reshape(-1) for each in matrices])
        moved = scale / math.sqrt(dimension) * optimizer.mean @ stored
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-12)
    assert all(np.abs(each).max() > 0.005 for each in matrices)


def test_every_number_is_used_once_before_any_is_used_again() -> None:
    optimizer = make_optimizer("eggroll", 7, seed=0, population=2, sigma=0.5)
    used = []
    for _ in range(21):
        around = optimizer.mean
        z = optimizer.ask(2)
        moves = z - around
        assert (moves != 0).sum() == 2
        np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 0.5 * math.sqrt(7))
        used.append(int(np.abs(moves[0]).argmax()))
        optimizer.tell(z, z.sum(axis=1))
    rounds = np.reshape(used, (3, 7))
    np.testing.assert_array_equal(np.sort(rounds, axis=1), [range(7)] * 3)
    assert len({tuple(each) for each in rounds.tolist()}) > 1


@pytest.mark.parametrize("population", [2, 10, 128, 4 * 128])
def test_a_pair_moves_the_mean_by_the_same_however_many_are_told_at_a_time(
    population: int,
) -> None:
    """On a slope as steep along each number: σ √d / 20, once all that is known is averaged."""
    slope = np.where(np.arange(64) % 3, 1.0, -1.0)
    optimizer = make_optimizer("eggroll", 64, seed=1, population=population, sigma=0.5)
    z = optimizer.ask(population)
    optimizer.tell(z, z @ slope)
    moved = np.flatnonzero(optimizer.mean)
    assert len(moved) == min(population // 2, 64)
    np.testing.assert_allclose(optimizer.mean[moved], -slope[moved] * 0.5 * 8 / 20)


def test_the_kth_time_a_number_moves_by_less() -> None:
    slope = np.linspace(1, 2, 6)
    optimizer = make_optimizer("eggroll", 6, seed=1, population=12)
    moves, before = [], optimizer.mean
    for _ in range(4):
        z = optimizer.ask(12)
        optimizer.tell(z, (z - before) @ slope)
        moves.append(optimizer.mean - before)
        before = optimizer.mean
    expected = [moves[0] / math.sqrt(k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moves, expected)


@pytest.mark.parametrize(("calls", "left"), [(300, 0.95), (2000, 0.46)])
def test_a_sphere_of_a_thousand_numbers(calls: int, left: float) -> None:
    """After 300 calls, 150 directions are known, so that no search can leave less than 0.85."""
    for seed in range(3):
        optimum = np.random.default_rng([seed, 99]).standard_normal(1000)

        def loss(z: Vector, optimum: Vector = optimum) -> Vector:
            return np.asarray(((z - optimum) ** 2).sum(axis=1) / (optimum @ optimum))

        optimizer = make_optimizer("eggroll", 1000, seed=seed)
        for _ in range(calls // 20):
            z = optimizer.ask(20)
            optimizer.tell(z, loss(z))
        assert loss(optimizer.mean[None])[0] < left
