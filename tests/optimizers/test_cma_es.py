import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import make_optimizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # matplotlib may be missing
    import cma


def ellipsoid(z):
    return (10.0 ** np.linspace(0, 4, z.shape[1]) * (z - 0.5) ** 2).sum(axis=1)


def direct_pycma(loss, dimension, seed, generations, *, diagonal):
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    options = {
        "popsize": 20,
        "CMA_diagonal": diagonal,
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": np.nan,
        "verbose": -9,
    }
    strategy = cma.CMAEvolutionStrategy(dimension * [0.0], 0.8, options)
    for _ in range(generations):
        z = strategy.ask()
        strategy.tell(z, loss(np.array(z)).tolist())
    return strategy.mean


@pytest.mark.parametrize("dimension", [10, 310])  # pycma adapts the step otherwise from 300 on
@pytest.mark.parametrize("name", ["cma", "cma-diagonal"])
def test_same_as_pycma_by_hand(name, dimension):
    optimizer = make_optimizer(name, dimension, seed=9, sigma=0.8)
    for _ in range(12):
        z = optimizer.ask(20)
        optimizer.tell(z, ellipsoid(z))
    expected = direct_pycma(ellipsoid, dimension, 9, 12, diagonal=name == "cma-diagonal")
    np.testing.assert_array_equal(optimizer.mean, expected)


@pytest.mark.parametrize("name", ["cma", "cma-diagonal"])
@pytest.mark.parametrize("dimension", [6, 310])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_how_a_generation_is_split_changes_nothing(name, dimension, data):
    whole = make_optimizer(name, dimension, seed=4)
    split = make_optimizer(name, dimension, seed=4)
    for _ in range(4):
        z = whole.ask(20)
        whole.tell(z, ellipsoid(z))
        cuts = sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))
        sizes = np.diff([0, *cuts, 20])
        asked = [split.ask(int(size)) for size in sizes]
        for portion in data.draw(st.permutations(asked)):
            split.tell(portion, ellipsoid(portion))
    np.testing.assert_array_equal(whole.mean, split.mean)


@pytest.mark.parametrize("name", ["cma", "cma-diagonal"])
def test_the_mean_moves_once_all_that_was_asked_is_told(name):
    optimizer = make_optimizer(name, 5, seed=0)
    z = optimizer.ask(30)
    optimizer.tell(z[:25], ellipsoid(z[:25]))
    np.testing.assert_array_equal(optimizer.mean, np.zeros(5))
    optimizer.tell(z[25:], ellipsoid(z[25:]))
    parents = z[ellipsoid(z).argsort()][:10]
    inside = (parents.min(axis=0) <= optimizer.mean) & (optimizer.mean <= parents.max(axis=0))
    assert inside.all()


def test_too_few_for_an_update_wait_for_more():
    optimizer = make_optimizer("cma", 5, seed=0)
    for _ in range(3):
        np.testing.assert_array_equal(optimizer.mean, np.zeros(5))
        z = optimizer.ask(7)
        optimizer.tell(z, ellipsoid(z))
    assert np.abs(optimizer.mean).max() > 0.01


@pytest.mark.parametrize("size", [7, 50])
@pytest.mark.parametrize("name", ["cma", "cma-diagonal"])
def test_converges_when_asked_for_another_number(name, size):
    optimizer = make_optimizer(name, 10, seed=2)
    for _ in range(4000 // size):
        z = optimizer.ask(size)
        optimizer.tell(z, ellipsoid(z))
    assert ellipsoid(optimizer.mean[None])[0] < 1e-3 * ellipsoid(np.zeros((1, 10)))[0]


def test_diagonal_is_ahead_along_the_axes_and_full_when_rotated():
    dimension, generations = 10, 150
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((dimension, dimension)))

    def final(name, turn):
        optimizer = make_optimizer(name, dimension, seed=6)
        for _ in range(generations):
            z = optimizer.ask(20)
            optimizer.tell(z, ellipsoid(z @ turn))
        return ellipsoid((optimizer.mean @ turn)[None])[0]

    upright = np.eye(dimension)
    assert final("cma-diagonal", upright) < 0.01 * final("cma", upright)
    assert final("cma", rotation) < 0.01 * final("cma-diagonal", rotation)


def test_no_stopping_rule_ends_the_search():
    optimizer = make_optimizer("cma-diagonal", 3, seed=0)
    for _ in range(400):  # far beyond pycma's tolfun and tolflatfitness
        z = optimizer.ask(20)
        optimizer.tell(z, np.zeros(20))
    assert np.isfinite(optimizer.mean).all()


@pytest.mark.parametrize("name", ["cma", "cma-diagonal"])
def test_limits_are_named(name):
    with pytest.raises(ConfigError, match="at least 2"):
        make_optimizer(name, 1, seed=0)
    with pytest.raises(ConfigError, match="at least 4"):
        make_optimizer(name, 5, seed=0, population=3)


def test_an_ill_conditioned_covariance_leaves_mean_and_deviations_those_of_the_candidates():
    """pycma goes on in a space of its own from a condition number of 10¹² on."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    optimizer = make_optimizer("cma", 3, seed=0, population=8)
    for _ in range(120):
        z = optimizer.ask(8)
        optimizer.tell(z, (((z - 0.5) @ turn) ** 2 * 10.0 ** np.array([0, 7, 14])).sum(axis=1))
    assert not optimizer._strategy.gp.isidentity
    drawn = np.stack([optimizer._strategy.ask(number=1)[0] for _ in range(4000)])
    np.testing.assert_allclose(drawn.std(axis=0), optimizer.deviations, rtol=0.1)
    error = np.abs(drawn.mean(axis=0) - optimizer.mean) / optimizer.deviations
    assert (error < 5 / np.sqrt(len(drawn))).all()
