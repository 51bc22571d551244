"""What every optimizer must do, whichever family it comes from."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta import optimizers
from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import OPTIMIZERS
from blackbox_delta.testing import check_optimizer

NEVERGRAD = ("nevergrad:TBPSA", "nevergrad:CMA", "nevergrad:DE")
EVERY = OPTIMIZERS + NEVERGRAD
LEARNING = tuple(name for name in EVERY if name != "random")


def make_optimizer(name, dimension, **given):
    """With z in two parts where an optimizer wants several."""
    halves = (dimension // 2, dimension - dimension // 2)
    parts = halves if name in optimizers.OF_PARTS else ()
    return optimizers.make_optimizer(name, dimension, **given, parts=parts)


@pytest.mark.parametrize("name", EVERY)
def test_the_contract(name):
    check_optimizer(lambda dimension, seed: make_optimizer(name, dimension, seed=seed))


def sphere(z):
    return ((z - 0.7) ** 2).sum(axis=1)


def ellipsoid(z):
    return (10.0 ** np.linspace(0, 2, z.shape[1]) * (z - 0.7) ** 2).sum(axis=1)


def run(optimizer, loss, generations, count=20):
    for _ in range(generations):
        z = optimizer.ask(count)
        optimizer.tell(z, loss(z))
    return optimizer.mean


@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_name(name):
    optimizer = make_optimizer(name, 6, seed=1, population=7)
    assert optimizer.name == name
    assert optimizer.population == 7
    np.testing.assert_array_equal(optimizer.mean, np.zeros(6))
    z = optimizer.ask(3)
    assert z.shape == (3, 6)
    assert z.dtype == np.float64
    optimizer.tell(z, sphere(z))
    assert optimizer.mean.shape == (6,)


@pytest.mark.parametrize("loss", [sphere, ellipsoid])
@pytest.mark.parametrize("name", LEARNING)
def test_converges_far_better_than_random_search(name, loss):
    dimension = 10
    by_chance = run(make_optimizer("random", dimension, seed=3), loss, 40)
    found = run(make_optimizer(name, dimension, seed=3, budget_candidates=800), loss, 40)
    assert loss(found[None])[0] < 0.5 * loss(by_chance[None])[0]


def test_random_search_keeps_the_best_told():
    optimizer = make_optimizer("random", 4, seed=0)
    seen = []
    for _ in range(5):
        z = optimizer.ask(9)
        optimizer.tell(z, sphere(z))
        seen.append(z)
    z = np.concatenate(seen)
    np.testing.assert_array_equal(optimizer.mean, z[sphere(z).argmin()])


def test_random_search_draws_with_the_given_deviation():
    z = make_optimizer("random", 50, seed=0, sigma=3.0).ask(400)
    assert z.std() == pytest.approx(3.0, rel=0.03)
    assert abs(z.mean()) < 0.1


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(1, 33), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_any_number_can_be_asked_and_the_seed_determines_all(name, sizes, seed):
    first = make_optimizer(name, 5, seed=seed, population=6, budget_candidates=200)
    second = make_optimizer(name, 5, seed=seed, population=6, budget_candidates=200)
    for size in sizes:
        z = first.ask(size)
        assert z.shape == (size, 5)
        assert np.isfinite(z).all()
        np.testing.assert_array_equal(z, second.ask(size))
        first.tell(z, sphere(z))
        assert np.isfinite(first.mean).all()  # reading it must not disturb the search
        second.tell(z, sphere(z))
    np.testing.assert_array_equal(first.mean, second.mean)


@pytest.mark.parametrize("name", EVERY)
def test_another_seed_gives_other_candidates(name):
    drawn = []
    for seed in (1, 2):
        optimizer = make_optimizer(name, 5, seed=seed)
        run(optimizer, sphere, 3)
        drawn.append(optimizer.ask(20))
    assert not np.allclose(*drawn)


@pytest.mark.parametrize("name", EVERY)
def test_global_random_state_is_neither_read_nor_written(name):
    means = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        numpy_before, python_before = np.random.get_state(), random.getstate()  # noqa: NPY002
        means.append(run(make_optimizer(name, 5, seed=11), sphere, 4))
        numpy_after = np.random.get_state()  # noqa: NPY002
        np.testing.assert_array_equal(numpy_before[1], numpy_after[1])
        assert numpy_before[2:] == numpy_after[2:]
        assert random.getstate() == python_before
    np.testing.assert_array_equal(*means)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "nevergrad:TBPSA"])
def test_memory_does_not_grow_with_generations(name):
    optimizer = make_optimizer(name, 4, seed=5, population=8)
    rng = np.random.default_rng(0)
    held = []
    for _ in range(3):  # 300 generations
        # a noisy loss keeps the distribution from collapsing into repeated candidates
        run(optimizer, lambda z: sphere(z) + rng.standard_normal(len(z)), 100, count=8)
        held.append(len(pickle.dumps(optimizer)))
    candidates_of_100_generations = 100 * 8 * 4 * 8  # bytes
    assert held[2] - held[1] < candidates_of_100_generations / 10


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_a_number_is_refused(name, bad):
    optimizer = make_optimizer(name, 4, seed=0, population=4)
    z = optimizer.ask(4)
    losses = np.array([0.5, bad, 0.1, 0.2])
    with pytest.raises(ConfigError, match="candidate 1"):
        optimizer.tell(z, losses)
    optimizer.tell(z, sphere(z))  # and nothing of it was taken in


@pytest.mark.parametrize("name", EVERY)
def test_wrong_shapes_are_refused(name):
    optimizer = make_optimizer(name, 4, seed=0, population=4)
    z = optimizer.ask(4)
    with pytest.raises(ConfigError, match="shape"):
        optimizer.tell(z, np.zeros(3))
    with pytest.raises(ConfigError, match="shape"):
        optimizer.tell(z[:, :2], np.zeros(4))
    with pytest.raises(ConfigError, match="not finite"):
        optimizer.tell(z * np.nan, np.zeros(4))
    with pytest.raises(ConfigError, match="At least one"):
        optimizer.ask(0)


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_refused_leaves_the_search_as_it_was(name):
    optimizer, other = (make_optimizer(name, 4, seed=1, population=6) for _ in range(2))
    z = optimizer.ask(6)
    np.testing.assert_array_equal(other.ask(6), z)
    foreign = np.array([*z[:5], z[5] + 1])
    with pytest.raises(ConfigError, match="not asked for"):
        optimizer.tell(foreign, sphere(foreign))
    for each in (optimizer, other):
        each.tell(z, sphere(z))
    np.testing.assert_array_equal(optimizer.ask(6), other.ask(6))


@pytest.mark.parametrize("name", LEARNING)
def test_a_candidate_told_twice_or_never_asked_is_refused(name):
    optimizer = make_optimizer(name, 4, seed=0, population=8)
    z = optimizer.ask(4)
    optimizer.tell(z[:2], sphere(z[:2]))
    with pytest.raises(ConfigError, match="twice"):
        optimizer.tell(z[:2], sphere(z[:2]))
    with pytest.raises(ConfigError, match="not asked"):
        optimizer.tell(z[2:] + 1.0, sphere(z[2:]))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "wrong", [{"dimension": 0}, {"population": 0}, {"sigma": 0.0}, {"sigma": float("nan")}]
)
def test_senseless_settings_are_refused(name, wrong):
    with pytest.raises(ConfigError, match=r"dimension|population|sigma"):
        make_optimizer(name, **{"dimension": 5, "seed": 0, **wrong})


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(ConfigError, match=r"'sgd'.*cma, cma-diagonal, es, .*nevergrad:"):
        make_optimizer("sgd", 5, seed=0)
