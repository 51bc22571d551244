"""Subspaces whose matrix is never built: against the matrix itself, and for size."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import (
    FastfoodSubspace,
    SparseSubspace,
    Subspace,
    fastfood,
    make_subspace,
    sparse,
    subspace_from_config,
)
from blackbox_delta.subspaces.dense import normal

KINDS = [FastfoodSubspace, SparseSubspace]


def nothing(size: int) -> np.ndarray:
    return np.zeros(size, dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 5, 64, 100])
def test_an_entry_of_theta_has_the_deviation_asked_for(
    kind: type[Subspace], dimension: int
) -> None:
    subspace = kind(dimension, 20_000, 3, 0.25)
    z = np.random.default_rng(0).standard_normal((400, dimension))
    theta = subspace.project(z, nothing(20_000))
    assert np.square(theta).mean() == pytest.approx(0.25**2 * np.square(z).mean(), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_and_angles_are_kept(kind: type[Subspace]) -> None:
    """What a random subspace is for: θ's geometry is z's."""
    dimension, size = 50, 60_000
    z = np.random.default_rng(1).standard_normal((6, dimension))
    theta = kind(dimension, size, 0, 1.0).project(z, nothing(size)).astype(np.float64)
    np.testing.assert_allclose(theta @ theta.T / size, z @ z.T / dimension, atol=0.06)


def test_fastfood_is_its_matrices() -> None:
    """The matrix V of Le et al., H G Π H B / (‖G‖ √n), with scipy's Hadamard matrix."""
    dimension, size, n = 11, 40, 16
    subspace = FastfoodSubspace(dimension, size, 7, 0.3)
    drawn = np.random.PCG64(7).random_raw(2 * 48).reshape(3, n, 2)
    h, blocks = hadamard(n).astype(float), []
    for block in drawn:
        b = np.diag(1.0 - 2.0 * (block[:, 0] & 1).astype(float))
        g = np.diag(normal(((block[:, 0] >> 12).astype(float) + 0.5) / 2.0**52))
        pi = np.eye(n)[np.argsort(block[:, 1])]
        blocks.append(h @ g @ pi @ h @ b / (np.linalg.norm(np.diag(g)) * math.sqrt(n)))
    matrix = np.concatenate(blocks)[:size, :dimension]
    z = np.random.default_rng(0).standard_normal((4, dimension))
    expected = 0.3 * math.sqrt(n / dimension) * z @ matrix.T
    np.testing.assert_allclose(subspace.project(z, nothing(size)), expected, atol=1e-5)


def test_sparse_is_a_sign_and_a_place_for_each_entry() -> None:
    subspace = SparseSubspace(10, 2_000, 4, 1.0)
    matrix = subspace.project(np.eye(10), nothing(2_000)).T
    assert ((matrix != 0).sum(axis=1) == 1).all()
    assert set(np.unique(matrix)) == {-1.0, 0.0, 1.0}
    used = (matrix != 0).sum(axis=0)
    assert used.min() > 120  # about 200 each


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_batching_and_order_gives_the_same_bits(
    kind: type[Subspace], data: st.DataObject
) -> None:
    dimension = data.draw(st.sampled_from([1, 7, 64, 100]))
    subspace = kind(dimension, 900, 5, 0.3)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    z = rng.standard_normal((6, dimension)) * 10.0 ** rng.integers(-4, 2, size=(6, 1))
    origin = rng.standard_normal(900).astype(np.float32)
    whole = subspace.project(z, origin)
    order = data.draw(st.permutations(range(6)))
    parts = [subspace.project(z[[row]], origin) for row in order]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [(FastfoodSubspace, fastfood, "_GROUP_ENTRIES"), (SparseSubspace, sparse, "_BLOCK_ENTRIES")],
)
def test_blocks_change_nothing(
    kind: type[Subspace], module: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = np.random.default_rng(0).standard_normal((3, 20))
    whole = kind(20, 1_000, 1, 1.0).project(z, nothing(1_000))
    monkeypatch.setattr(module, name, 96)
    assert kind(20, 1_000, 1, 1.0).project(z, nothing(1_000)).tobytes() == whole.tobytes()


def test_sparse_entries_are_these_for_ever() -> None:
    """Saved deltas hold z and a seed alone, so a change here would break every one of them."""
    z = [0.5, -1.0, 2.0]
    raw = np.random.PCG64(7).random_raw(4).tolist()
    expected = [(1 - 2 * (bits % 2)) * z[int((bits >> 11) / 2**53 * 3)] for bits in raw]
    theta = SparseSubspace(3, 4, 7, 1.0).project(np.array([z]), nothing(4))
    np.testing.assert_array_equal(theta[0], np.array(expected, np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_search_dimension(kind: type[Subspace]) -> None:
    """A dense matrix would take 4 GB here."""
    subspace = kind(1_000, 1_000_000, 0, 1.0)
    z = np.random.default_rng(0).standard_normal((1, 1_000))
    tracemalloc.start()
    subspace.project(z, nothing(1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6


@pytest.mark.parametrize("kind", KINDS)
def test_config_through_json_rebuilds_it(kind: type[Subspace]) -> None:
    subspace = kind(3, 8, 11, 0.7)
    assert subspace_from_config(json.loads(json.dumps(subspace.config()))) == subspace


def test_one_is_chosen_by_size() -> None:
    assert make_subspace(None, 500, 100_000, 0, 1.0).kind == "random"
    assert make_subspace(None, 500, 1_000_000, 0, 1.0).kind == "sparse"
    assert make_subspace("fastfood", 5, 10, 0, 1.0).kind == "fastfood"
    with pytest.raises(ConfigError, match="no subspace 'hat'; choose one of gaussian, uniform"):
        make_subspace("hat", 5, 10, 0, 1.0)
    with pytest.raises(ConfigError, match="larger than the 10 numbers"):
        make_subspace("sparse", 11, 10, 0, 1.0)
