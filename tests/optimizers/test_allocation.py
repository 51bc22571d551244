"""Importance and shares by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata

from blackbox_delta.optimizers.allocation import EXPLORED, Importance, sensitivity, shared


def test_sensitivity_is_nothing_on_average_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    found = sensitivity(rng.standard_normal((20, 20_000)), rng.standard_normal(20))
    assert found.mean() == pytest.approx(0, abs=0.05)


def test_sensitivity_is_the_squared_correlation_with_ranks() -> None:
    rng = np.random.default_rng(1)
    normals = rng.standard_normal((2000, 3))
    losses = np.exp(2 * normals[:, 0] - normals[:, 1])  # with outliers
    correlations = np.array([pearsonr(each, rankdata(losses)).statistic for each in normals.T])
    of_all = 2000 * normals.var(axis=0)
    np.testing.assert_allclose((sensitivity(normals, losses) + 1) / of_all, correlations**2)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_shares_are_within_bounds_and_add_up(data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=8)))
    size = len(lengths)
    scores = np.array(data.draw(st.lists(st.floats(0, 5), min_size=size, max_size=size)))
    budget = data.draw(st.integers(size, int(lengths.sum())))
    shares = shared(budget, scores, lengths)
    assert shares.sum() == budget
    assert (shares >= 1).all()
    assert (shares <= lengths).all()


def test_shares_go_by_length_first_and_then_by_importance() -> None:
    lengths = np.array([100, 200, 100])
    np.testing.assert_array_equal(shared(200, np.zeros(3), lengths), [50, 100, 50])
    shares = shared(100, np.array([3.0, 0.0, 1.0]), lengths)
    np.testing.assert_allclose(shares, 100 * EXPLORED * lengths / 400 + [67.5, 0, 22.5], atol=1)


def test_what_is_full_leaves_the_rest_to_others() -> None:
    shares = shared(12, np.array([100.0, 1.0, 0.0]), np.array([4, 10, 10]))
    assert shares[0] == 4
    assert shares[1] > shares[2]


def test_a_part_keeps_its_most_important_numbers_and_tries_those_that_rest() -> None:
    importance = Importance((4, 4))
    assert importance.choose(4, np.arange(8)).tolist() == [0, 1, 4, 5]
    rng = np.random.default_rng(2)
    for _ in range(30):
        normals = rng.standard_normal((20, 4))
        importance.measure(np.array([0, 1, 4, 5]), normals, normals[:, 0] - normals[:, 2])
    # 0 and 4 say all, 1 and 5 nothing; 2 and 6 rest and count as the average of their parts.
    assert importance.choose(4, np.array([0, 1, 4, 5])).tolist() == [0, 2, 4, 6]


def test_numbers_that_rest_take_turns() -> None:
    importance, rng = Importance((10,)), np.random.default_rng(4)
    active, times = np.arange(5), np.zeros(10)
    for _ in range(2_000):
        importance.measure(active, rng.standard_normal((20, 5)), rng.standard_normal(20))
        active = importance.choose(5, active)
        times[active] += 1
    # Nothing matters: by place the last ones had hardly half of what the first had.
    assert times.min() > 0.75 * times.max()


def test_the_part_that_matters_has_the_higher_score() -> None:
    importance = Importance((5, 5))
    rng = np.random.default_rng(3)
    for _ in range(30):
        normals = rng.standard_normal((20, 10))
        importance.measure(np.arange(10), normals, normals[:, :5].sum(axis=1))
    first, second = importance.scores
    assert first > 5 * second
