import json
import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from blackbox_delta import subspaces
from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import DenseSubspace, dense, subspace_from_config


def unit_matrix(subspace):
    """A, by projecting the unit vectors."""
    basis = np.eye(subspace.dimension)
    theta = subspace.project(basis, np.zeros(subspace.size, dtype=np.float32))
    return theta.T / (subspace.scale / math.sqrt(subspace.dimension))


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_an_entry_of_theta_has_the_deviation_asked_for(distribution):
    subspace = DenseSubspace(60, 4000, seed=3, scale=0.25, distribution=distribution)
    z = np.random.default_rng(0).standard_normal((50, 60))
    theta = subspace.project(z, np.zeros(4000, dtype=np.float32))
    assert theta.std() == pytest.approx(0.25, rel=0.04)
    assert abs(theta.mean()) < 0.01


@pytest.mark.parametrize(
    ("distribution", "law"),
    [("gaussian", ("norm", ())), ("uniform", ("uniform", (-math.sqrt(3), 2 * math.sqrt(3))))],
)
def test_entries_follow_the_distribution(distribution, law):
    subspace = DenseSubspace(20, 1000, seed=1, scale=math.sqrt(20), distribution=distribution)
    entries = unit_matrix(subspace).reshape(-1)
    assert entries.var() == pytest.approx(1.0, rel=0.03)
    assert kstest(entries, law[0], args=law[1]).pvalue > 0.001
    steps = entries * 2**12
    np.testing.assert_array_equal(steps, np.rint(steps))


def test_entries_are_these_for_ever():
    """Saved deltas hold z and a seed alone, so a change here would break every one of them."""
    raw = np.random.PCG64(7).random_raw(12).tolist()
    u = [(bits // 2**12 + 0.5) / 2**52 for bits in raw]
    gaussian = [round(NormalDist().inv_cdf(x) * 2**12) for x in u]
    uniform = [round(math.sqrt(3) * (2 * x - 1) * 2**12) for x in u]
    assert gaussian == [
        1306,
        5185,
        3104,
        -3091,
        -2146,
        4683,
        -10477,
        3769,
        3405,
        -330,
        -2112,
        -2407,
    ]
    for distribution, expected in (("gaussian", gaussian), ("uniform", uniform)):
        subspace = DenseSubspace(3, 4, 7, scale=math.sqrt(3), distribution=distribution)
        steps = unit_matrix(subspace).reshape(-1) * 2**12
        np.testing.assert_array_equal(np.rint(steps), expected)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_batching_and_order_gives_the_same_bits(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dimension = data.draw(st.sampled_from([1, 7, 64, 500]))
    subspace = DenseSubspace(dimension, 600, seed=5, scale=0.3)
    z = rng.standard_normal((12, dimension)) * 10.0 ** rng.integers(-6, 3, size=(12, 1))
    origin = rng.standard_normal(600).astype(np.float32)
    whole = subspace.project(z, origin)
    order = data.draw(st.permutations(range(12)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 11))))
    parts = [subspace.project(part, origin) for part in np.split(z[order], cuts)]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


def test_blocks_change_nothing(monkeypatch):
    z, origin = np.random.default_rng(0).standard_normal((3, 5)), np.zeros(50, dtype=np.float32)
    whole = DenseSubspace(5, 50, seed=1, scale=1.0).project(z, origin)
    monkeypatch.setattr(dense, "_BLOCK_ENTRIES", 15)
    blocked = DenseSubspace(5, 50, seed=1, scale=1.0).project(z, origin)
    assert whole.tobytes() == blocked.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    z=st.lists(st.floats(-300, 300), min_size=4, max_size=4),
    scale=st.floats(1e-3, 10),
    distribution=st.sampled_from(["gaussian", "uniform"]),
)
def test_the_sum_is_exact(z, scale, distribution):
    subspace = DenseSubspace(4, 6, seed=2, scale=scale, distribution=distribution)
    origin = np.linspace(-1, 1, 6, dtype=np.float32)
    matrix = subspace._matrix
    snapped = [min(max(Fraction(round(Fraction(x) * 2**16), 2**16), -256), 256) for x in z]
    for theta, row, p0 in zip(
        subspace.project(np.array([z]), origin)[0], matrix, origin, strict=True
    ):
        exact = sum(Fraction(float(a)) * x for a, x in zip(row, snapped, strict=True))
        assert Fraction(float(exact)) == exact  # it fits a float64, so no order could matter
        assert theta == np.float32(float(p0) + scale / math.sqrt(4) * float(exact))


def test_the_worst_case_still_fits_a_float64():
    entries, largest = subspaces.MAX_DIMENSION, Fraction(8) * 256
    assert entries * largest * 2**28 <= 2**53


def test_snapped_z_survives_float32():
    subspace = DenseSubspace(500, 500, seed=0, scale=1.0)
    z = np.random.default_rng(0).standard_normal((4, 500)) * 80
    snapped = subspace.snap(z)
    np.testing.assert_array_equal(snapped, snapped.astype(np.float32))
    np.testing.assert_array_equal(snapped, subspace.snap(snapped))
    assert np.abs(snapped - np.clip(z, -256, 256)).max() <= 2.0**-17


def test_zero_is_the_origin_and_seeds_differ():
    origin = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    subspace = DenseSubspace(5, 40, seed=1, scale=0.1)
    np.testing.assert_array_equal(subspace.project(np.zeros((2, 5)), origin), [origin, origin])
    other = DenseSubspace(5, 40, seed=2, scale=0.1)
    assert not np.array_equal(unit_matrix(subspace), unit_matrix(other))


@given(scale=st.floats(1e-12, 1e6), seed=st.integers(0, 2**63))
def test_config_through_json_rebuilds_it(scale, seed):
    subspace = DenseSubspace(3, 8, seed=seed, scale=scale, distribution="uniform")
    again = subspace_from_config(json.loads(json.dumps(subspace.config())))
    assert again == subspace
    z, origin = np.array([[0.5, -1.0, 2.0]]), np.ones(8, dtype=np.float32)
    assert again.project(z, origin).tobytes() == subspace.project(z, origin).tobytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 0}, "between 1 and 4096"),
        ({"dimension": 4097, "size": 5000}, "rebuilt exactly"),
        ({"size": 3}, "larger than the 3 numbers"),
        ({"seed": -1}, "negative"),
        ({"scale": 0.0}, "positive"),
        ({"scale": math.inf}, "positive"),
        ({"distribution": "cauchy"}, "gaussian, uniform"),
    ],
)
def test_senseless_settings_are_refused(wrong, message):
    good = {"dimension": 4, "size": 10, "seed": 0, "scale": 1.0}
    with pytest.raises(ConfigError, match=message):
        DenseSubspace(**{**good, **wrong})


def test_other_settings_are_refused():
    config = DenseSubspace(2, 3, seed=0, scale=1.0).config()
    for wrong in ({}, {**config, "kind": "fastfood"}, {**config, "rank": 3}, {"kind": "random"}):
        with pytest.raises(ConfigError, match="subspace"):
            subspace_from_config(wrong)


def test_wrong_shapes_and_numbers_are_refused():
    subspace, origin = DenseSubspace(2, 3, seed=0, scale=1.0), np.zeros(3, dtype=np.float32)
    for z, p0 in (
        (np.zeros(2), origin),
        (np.zeros((1, 3)), origin),
        (np.zeros((1, 2)), origin[1:]),
    ):
        with pytest.raises(ConfigError, match="shape"):
            subspace.project(z, p0)
    with pytest.raises(ConfigError, match="not finite"):
        subspace.project(np.array([[0.0, np.nan]]), origin)


def test_a_matrix_that_no_memory_holds_is_refused_when_it_is_made(monkeypatch):
    with pytest.raises(ConfigError, match=r"400,000 GB, and .* Take the subspace 'sparse'"):
        DenseSubspace(1000, 10**11, seed=0, scale=1.0)
    monkeypatch.setattr(dense, "_memory", lambda: 4e6)
    DenseSubspace(1000, 1000, seed=0, scale=1.0)
    with pytest.raises(ConfigError, match="this machine has 0"):
        DenseSubspace(1000, 1001, seed=0, scale=1.0)
