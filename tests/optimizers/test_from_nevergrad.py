import numpy as np
import pytest

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import make_optimizer


def sphere(z):
    return ((z - 0.7) ** 2).sum(axis=1)


def test_a_misspelt_name_suggests_near_ones():
    with pytest.raises(ConfigError, match=r"'TBPS'.*TBPSA"):
        make_optimizer("nevergrad:TBPS", 4, seed=0)


def test_a_name_near_nothing_is_refused_too():
    with pytest.raises(ConfigError, match=r"no optimizer '§'\. All names"):
        make_optimizer("nevergrad:§", 4, seed=0)


@pytest.mark.parametrize("population", [1, 20])
def test_an_optimizer_of_one_candidate_at_a_time_is_refused_at_once(population):
    with pytest.raises(ConfigError, match=r"'nevergrad:Cobyla'.*one candidate at a time"):
        make_optimizer("nevergrad:Cobyla", 4, seed=0, population=population)


def test_the_budget_reaches_the_algorithm():
    # one-shot designs place all points at once, so they cannot exist without a budget
    drawn = [
        make_optimizer("nevergrad:HammersleySearch", 3, seed=0, budget_candidates=budget).ask(5)
        for budget in (10, 1000)
    ]
    assert not np.array_equal(*drawn)
    with pytest.raises(ConfigError, match=r"HammersleySearch' cannot be used"):
        make_optimizer("nevergrad:HammersleySearch", 3, seed=0).ask(5)


def test_a_missing_budget_is_named():
    with pytest.raises(ConfigError, match=r"NGOpt' cannot be used.*need to know the budget"):
        make_optimizer("nevergrad:NGOpt", 5, seed=0).ask(20)
    assert make_optimizer("nevergrad:NGOpt", 5, seed=0, budget_candidates=60).ask(20).shape == (
        20,
        5,
    )


def test_the_step_size_reaches_the_algorithm():
    small, large = (
        make_optimizer("nevergrad:CMA", 30, seed=0, sigma=sigma).ask(20) for sigma in (0.1, 10.0)
    )
    np.testing.assert_allclose(large, 100 * small, rtol=1e-9)


@pytest.mark.parametrize("name", ["nevergrad:CMA", "nevergrad:DiagonalCMA"])
def test_its_cma_works_in_many_dimensions_with_any_population(name):
    optimizer = make_optimizer(name, 320, seed=0, population=7)
    start = sphere(np.zeros((1, 320)))[0]
    for _ in range(20):
        z = optimizer.ask(7)
        optimizer.tell(z, sphere(z))
    assert z.shape == (7, 320)
    assert not np.array_equal(optimizer.mean, np.zeros(320))
    assert np.isfinite(optimizer.mean).all()
    assert sphere(optimizer.mean[None])[0] < 3 * start


def test_told_in_another_order_and_split():
    optimizer = make_optimizer("nevergrad:OnePlusOne", 4, seed=0)
    z = np.concatenate([optimizer.ask(3), optimizer.ask(5)])
    for rows in ([7, 0, 3], [1, 2, 4, 5, 6]):
        optimizer.tell(z[rows], sphere(z[rows]))
    best = z[sphere(z).argmin()]
    np.testing.assert_allclose(optimizer.mean, best, rtol=1e-12)
