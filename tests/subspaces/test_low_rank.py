"""Seeded directions of low rank: against their outer products, and for what they cost."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import (
    LowRankSubspace,
    low_rank,
    make_subspace,
    subspace_from_config,
)
from blackbox_delta.types import FloatArray

SHAPES = ((5, 7), (4,), (1, 1), (2, 3, 4), (9, 2))

shapes_of_any_kind = st.lists(
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
).map(tuple)


def size_of(shapes: tuple[tuple[int, ...], ...]) -> int:
    return sum(map(math.prod, shapes))


def subspace_of(dimension: int = 3, shapes: Any = SHAPES, rank: int = 1) -> LowRankSubspace:
    return LowRankSubspace(dimension, size_of(shapes), 7, 0.25, shapes, rank)


def nothing(subspace: LowRankSubspace) -> FloatArray:
    return np.zeros(subspace.size, dtype=np.float32)


def directions(subspace: LowRankSubspace) -> FloatArray:
    """(d, D): A_j B_jᵀ of every matrix, sign by sign as the draw order has it."""
    lines = sum(sum(as_matrix(shape)) for shape in subspace.shapes)
    rank, columns = subspace.rank, subspace.dimension * subspace.rank
    numbers = np.random.PCG64(subspace.seed).random_raw(lines * (columns // 64 + 1)).tolist()

    def sign(line: int, column: int) -> int:
        return 1 - 2 * (numbers[column // 64 * lines + line] >> column % 64 & 1)

    found = []
    for j in range(subspace.dimension):
        line, parts = 0, []
        for m, n in map(as_matrix, subspace.shapes):
            products = np.zeros((m, n))
            for column in range(j * rank, (j + 1) * rank):
                a = [sign(line + row, column) for row in range(m)]
                b = [sign(line + m + row, column) for row in range(n)]
                products += np.outer(a, b)
            parts.append(products.reshape(-1))
            line += m + n
        found.append(np.concatenate(parts))
    return np.array(found)


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (shape[0], 1)


@settings(max_examples=40, deadline=None)
@given(
    shapes=shapes_of_any_kind,
    rank=st.sampled_from([1, 2, 3, 40]),
    dimension=st.sampled_from([1, 2, 5, 70]),
    data=st.data(),
)
def test_theta_is_the_outer_products_in_any_slice(
    shapes: tuple[tuple[int, ...], ...], rank: int, dimension: int, data: st.DataObject
) -> None:
    """A saved delta holds z and a seed alone, so no sign may ever change."""
    subspace = subspace_of(min(dimension, size_of(shapes)), shapes, rank)
    z = np.random.default_rng(0).standard_normal((4, subspace.dimension))
    z *= np.random.default_rng(1).random(z.shape) < 0.4
    exact = subspace.snap(z)
    expected = exact @ directions(subspace)  # no sum of these rounds
    start = data.draw(st.integers(0, subspace.size))
    rows = slice(start, data.draw(st.integers(start, subspace.size + 3)))
    np.testing.assert_array_equal(subspace._moved(exact, rows), expected[:, rows])
    factor = 0.25 / math.sqrt(subspace.dimension * rank)
    theta = subspace.project(z, nothing(subspace))
    np.testing.assert_array_equal(theta, (factor * expected).astype(np.float32))


def test_a_direction_of_a_matrix_has_the_rank_that_was_asked_for() -> None:
    for rank in (1, 3, 8):
        subspace = subspace_of(4, ((40, 50), (50, 60)), rank)
        for direction in subspace.project(np.eye(4), nothing(subspace)):
            assert np.linalg.matrix_rank(direction[:2000].reshape(40, 50)) == rank
            assert np.linalg.matrix_rank(direction[2000:].reshape(50, 60)) == rank


def test_many_directions_together_have_full_rank() -> None:
    subspace = subspace_of(60, ((40, 50),))
    z = np.random.default_rng(0).standard_normal((1, 60))
    theta = subspace.project(z, nothing(subspace)).reshape(40, 50)
    assert np.linalg.matrix_rank(theta) == 40


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("dimension", [1, 5, 64, 100])
def test_an_entry_of_theta_has_the_deviation_asked_for(dimension: int, rank: int) -> None:
    subspace = subspace_of(dimension, ((80, 90), (300,), (90, 40)), rank)
    z = np.random.default_rng(0).standard_normal((400, dimension))
    theta = subspace.project(z, nothing(subspace))
    assert np.square(theta).mean() == pytest.approx(0.25**2 * np.square(z).mean(), rel=0.05)


def test_directions_stand_at_right_angles_on_average() -> None:
    subspace = subspace_of(50, ((200, 300), (100,)))
    theta = subspace.project(np.eye(50), nothing(subspace)).astype(np.float64)
    cosines = theta @ theta.T / np.square(theta[0]).sum()
    np.testing.assert_allclose(np.diag(cosines), 1.0, rtol=1e-6)
    assert np.abs(cosines - np.eye(50)).max() < 0.05


def test_a_direction_is_the_same_whatever_the_dimension() -> None:
    few, many = subspace_of(10), subspace_of(70)
    z = np.random.default_rng(0).standard_normal((2, 10))
    wide = np.pad(z, ((0, 0), (0, 60)))
    for rows in (slice(0, 30), slice(30, few.size)):
        np.testing.assert_array_equal(few._moved(z, rows), many._moved(wide, rows))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_batching_and_order_gives_the_same_bits(data: st.DataObject) -> None:
    subspace = subspace_of(data.draw(st.sampled_from([1, 7, 70])), rank=2)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    z = rng.standard_normal((6, subspace.dimension)) * 10.0 ** rng.integers(-4, 2, size=(6, 1))
    z[2] = z[1]
    origin = rng.standard_normal(subspace.size).astype(np.float32)
    whole = subspace.project(z, origin)
    order = data.draw(st.permutations(range(6)))
    parts = [subspace.project(z[[row]], origin) for row in order]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


def test_the_largest_sums_do_not_round() -> None:
    """4096 numbers of the largest size and of the smallest step, all of which count."""
    subspace = LowRankSubspace(4096, 4096, 0, 1.0, ((64, 64),), 5)
    z = np.full((2, 4096), 256 - 2.0**-16)
    z[1] *= np.where(np.arange(4096) % 3, -1, 1)
    whole = subspace._moved(z, slice(0, 4096))
    for row, own in zip(z, whole, strict=True):
        exact = np.zeros(4096, dtype=np.int64)
        for part in np.split(np.arange(4096), 16):
            alone = np.zeros((1, 4096))
            alone[0, part] = row[part]
            exact += np.rint(subspace._moved(alone, slice(0, 4096))[0] * 2**16).astype(np.int64)
        np.testing.assert_array_equal(np.rint(own * 2**16).astype(np.int64), exact)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(0).standard_normal((3, 20))
    whole = subspace_of(20).project(z, nothing(subspace_of(20)))
    monkeypatch.setattr(low_rank, "_BLOCK_ENTRIES", 13)
    monkeypatch.setattr(low_rank, "_LINES", 2)
    assert subspace_of(20).project(z, nothing(subspace_of(20))).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("shape", "dimension"), [((1_000, 1_000), 1_000), ((300_000,), 130)])
def test_memory_does_not_grow_with_the_search_dimension(
    shape: tuple[int, ...], dimension: int
) -> None:
    """A dense matrix would take 4 GB for a matrix; a vector has long factors."""
    subspace = LowRankSubspace(dimension, math.prod(shape), 0, 1.0, (shape,))
    z = np.random.default_rng(0).standard_normal((1, dimension))
    tracemalloc.start()
    subspace.project(z, nothing(subspace))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_config_through_json_rebuilds_it() -> None:
    subspace = subspace_of(rank=3)
    assert subspace_from_config(json.loads(json.dumps(subspace.config()))) == subspace


def test_it_is_made_by_name() -> None:
    made = make_subspace("low-rank", 3, size_of(SHAPES), 7, 0.25, shapes=SHAPES)
    assert made == subspace_of()
    without = make_subspace("low-rank", 3, 10, 7, 0.25)
    assert isinstance(without, LowRankSubspace)
    assert without.shapes == ((10,),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank of a direction is between 1 and 4096, not 0"),
        ({"rank": 4097}, "not 4097"),
        ({"shapes": SHAPES[:2]}, "Tensors of 39 numbers, .* not make a delta of 82 numbers"),
        ({"shapes": ()}, "Tensors of 0 numbers"),
        ({"shapes": (*SHAPES, (3, 0))}, "each of at least one"),
        ({"dimension": 83}, "larger than the 82 numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(subspace_of(), **wrong)


def test_saved_settings_of_another_version_are_refused() -> None:
    config = subspace_of().config()
    del config["shapes"]
    with pytest.raises(ConfigError, match="incomplete or of another version"):
        subspace_from_config(config)


@pytest.mark.parametrize(
    "wrong", [{"shapes": [["x"]]}, {"shapes": [[float("inf")]]}, {"shapes": 3}, {"kind": ["x"]}]
)
def test_saved_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        subspace_from_config({**subspace_of().config(), **wrong})
    with pytest.raises(ConfigError, match="3 is not what a subspace says"):
        subspace_from_config(3)  # type: ignore[arg-type]
