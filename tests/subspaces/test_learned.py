"""A subspace that earlier deltas span: its basis, its span and its bits."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import (
    LearnedSubspace,
    make_subspace,
    subspace_from_config,
)
from blackbox_delta.subspaces.learned import MOST_DIRECTIONS, orthonormal_basis
from blackbox_delta.types import FloatArray, Vector

SIZE = 1000


def directions(count: int = 3, size: int = SIZE, seed: int = 0) -> list[tuple[str, Vector]]:
    drawn = np.random.default_rng(seed).standard_t(3, (count, size))
    drawn[1:] += 2 * drawn[0]  # far from orthogonal
    return [(f"run {number}", direction) for number, direction in enumerate(drawn)]


def spanned(dimension: int = 3, scale: float = 0.25, most_dense: int = 2**26) -> LearnedSubspace:
    return LearnedSubspace.spanned(dimension, orthonormal_basis(directions()), 7, scale, most_dense)


def nothing(size: int = SIZE) -> FloatArray:
    return np.zeros(size, dtype=np.float32)


def test_the_basis_is_gram_and_schmidts() -> None:
    """Against numpy's QR, whose rows have either sign."""
    given = directions()
    basis = orthonormal_basis(given)
    q, r = np.linalg.qr(np.array([direction for _, direction in given]).T)
    expected = (q * np.sign(np.diag(r))).T * np.sqrt(SIZE)
    np.testing.assert_allclose(basis, expected, atol=2.0**-12)
    np.testing.assert_allclose(basis @ basis.T / SIZE, np.eye(3), atol=1e-3)
    np.testing.assert_array_equal(basis * 2**12, np.rint(basis * 2**12))
    assert basis.dtype == np.float32


def test_theta_reaches_what_spans_it_and_nothing_else() -> None:
    """Each earlier direction is A z for some z, and every A z lies in their span."""
    subspace, origin = spanned(), np.linspace(-1, 1, SIZE, dtype=np.float32)
    earlier = np.array([direction for _, direction in directions()])
    unit = subspace.project(np.eye(3), origin) - origin
    for direction in earlier:
        z, _, _, _ = np.linalg.lstsq(unit.T, direction, rcond=None)
        z *= 4 / np.abs(z).max()
        reached = (subspace.project(z[None], origin) - origin)[0].astype(np.float64)
        cosine = reached @ direction / np.linalg.norm(reached) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1, abs=1e-6)
    z = np.random.default_rng(1).standard_normal((20, 3))
    moved = (subspace.project(z, origin) - origin).astype(np.float64)
    fitted, _, _, _ = np.linalg.lstsq(earlier.T, moved.T, rcond=None)
    np.testing.assert_allclose(earlier.T @ fitted, moved.T, atol=2e-4)


@pytest.mark.parametrize(("dimension", "most_dense"), [(3, 0), (40, 2**26), (40, 0)])
def test_entries_have_the_deviation_asked_for(dimension: int, most_dense: int) -> None:
    subspace = spanned(dimension, most_dense=most_dense)
    z = np.random.default_rng(0).standard_normal((3000, dimension))
    theta = subspace.project(z, nothing())
    assert np.sqrt(np.square(theta).mean()) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(("most_dense", "kind"), [(37 * SIZE, "gaussian"), (0, "sparse")])
def test_the_other_directions_are_random_ones(most_dense: int, kind: str) -> None:
    subspace = replace(spanned(40, most_dense=most_dense), apart=False)
    assert subspace.others == kind
    z = np.random.default_rng(0).standard_normal((5, 40))
    z[:, :3] = 0
    scale = 0.25 * np.sqrt(37 / 40)
    expected = make_subspace(kind, 37, SIZE, 7, scale).project(z[:, 3:], nothing())
    np.testing.assert_allclose(subspace.project(z, nothing()), expected, atol=1e-6)


@pytest.mark.parametrize(("dimension", "most_dense"), [(3, 0), (12, 2**26), (12, 0)])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_batching_and_order_gives_the_same_bits(
    dimension: int, most_dense: int, data: st.DataObject
) -> None:
    subspace = spanned(dimension, most_dense=most_dense)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    z = rng.standard_normal((6, dimension)) * 10.0 ** rng.integers(-6, 3, size=(6, 1))
    origin = rng.standard_normal(SIZE).astype(np.float32)
    whole = subspace.project(z, origin)
    order = data.draw(st.permutations(range(6)))
    parts = [subspace.project(z[[row]], origin) for row in order]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


@settings(max_examples=20, deadline=None)
@given(z=st.lists(st.floats(-300, 300), min_size=3, max_size=3))
def test_the_sum_is_exact(z: list[float]) -> None:
    subspace, origin = spanned(), np.linspace(-1, 1, SIZE, dtype=np.float32)
    snapped = [min(max(Fraction(round(Fraction(x) * 2**16), 2**16), -256), 256) for x in z]
    theta = subspace.project(np.array([z]), origin)[0]
    for place in range(0, SIZE, 97):
        column = subspace.basis[:, place]
        exact = sum(Fraction(float(a)) * x for a, x in zip(column, snapped, strict=True))
        moved = 0.25 / np.sqrt(3) * float(exact)
        assert theta[place] == np.float32(float(origin[place]) + moved)


def test_the_worst_case_still_fits_a_float64() -> None:
    assert MOST_DIRECTIONS * Fraction(2) ** 11 * 256 * 2**28 <= 2**53


@pytest.mark.parametrize("kind", ["gaussian", "sparse"])
def test_an_earlier_run_s_direction_is_held_once(kind: str) -> None:
    """However alike the runs are in seed and numbers: there, it was among the random ones."""
    numbers = np.random.default_rng(0).normal(size=(1, 4))
    earlier = make_subspace(kind, 4, SIZE, seed=7, scale=0.25)
    basis = orthonormal_basis([("run", earlier.project(numbers, nothing())[0].astype(float))])
    most_dense = 2**26 if kind == "gaussian" else 0

    subspace = LearnedSubspace.spanned(1 + 4, basis, 7, 0.25, most_dense)

    moved = subspace.project(np.eye(5), nothing())
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    assert np.linalg.svd(moved, compute_uv=False)[-1] > 0.5
    before = replace(subspace, apart=False).project(np.eye(5), nothing())
    assert np.linalg.matrix_rank(before, tol=1e-3) == 4
    saved = {name: value for name, value in subspace.config().items() if name != "apart"}
    again = subspace_from_config(saved, subspace.arrays())
    np.testing.assert_array_equal(again.project(np.eye(5), nothing()), before)


def test_config_and_arrays_rebuild_it() -> None:
    subspace = spanned(5)
    config = json.loads(json.dumps(subspace.config()))
    again = subspace_from_config(config, subspace.arrays())
    assert again == subspace
    z, origin = np.ones((1, 5)), np.ones(SIZE, np.float32)
    assert again.project(z, origin).tobytes() == subspace.project(z, origin).tobytes()
    assert make_subspace("gaussian", 3, 9, 0, 1.0).arrays() == {}
    other = LearnedSubspace.spanned(5, orthonormal_basis(directions(seed=1)), 7, 0.25, 2**26)
    assert other != subspace
    with pytest.raises(ConfigError, match="not the one that it was saved with"):
        subspace_from_config(config, other.arrays())
    with pytest.raises(ConfigError, match="incomplete"):
        subspace_from_config(config)


def dependent() -> list[tuple[str, Vector]]:
    given = directions()
    return [*given, ("run 3", given[0][1] - 2 * given[2][1])]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: orthonormal_basis(dependent()), "delta of run 3 adds no direction of its own"),
        (lambda: orthonormal_basis([("still", np.zeros(9))]), "delta of still adds no direction"),
        (lambda: orthonormal_basis(directions(65)), "64 earlier runs at most, not by 65"),
        (lambda: spanned(2), "dimension of 2 is less than the 3 directions"),
        (lambda: replace(spanned(), size=SIZE - 1), "directions of 999 numbers is expected"),
        (lambda: replace(spanned(), basis=spanned().basis + 1e-5), "not rounded"),
        (lambda: replace(spanned(), others="fastfood"), "no other directions of kind 'fastfood'"),
        (lambda: replace(spanned(), scale=0.0), "positive"),
    ],
)
def test_what_makes_no_sense_is_refused(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        what()
