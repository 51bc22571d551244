import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from blackbox_delta.heads.weighing import Weighed, fit_factors, fit_sharpness, with_unseen


def likelihood(terms: np.ndarray, factors: np.ndarray, labels: np.ndarray) -> float:
    n, c = terms.shape[1:]
    targets = (n * np.eye(c)[labels] + 1.0) / (n + c)
    return float((targets * log_softmax(np.tensordot(factors, terms, 1), axis=1)).sum())


def test_sharpness_maximises_the_smoothed_likelihood() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 50)
    scores = rng.normal(size=(50, 3)) * 0.5 + np.eye(3)[labels] * 0.5
    best = likelihood(scores[None], np.array([fit_sharpness(scores, labels)]), labels)
    grid = [likelihood(scores[None], np.array([f]), labels) for f in np.linspace(0, 50, 2001)]
    assert best >= max(grid) - 1e-4


def test_sharpness_stays_finite_where_all_is_separated_and_vanishes_where_all_is_wrong() -> None:
    labels = np.array([0, 1, 0, 1])
    assert 1.0 < fit_sharpness(np.eye(2)[labels], labels) < 5.0
    assert 0.0 < fit_sharpness(np.eye(2)[1 - labels], labels) < 0.02


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e6])
def test_factors_maximise_the_likelihood_on_any_scale(scale: float) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 60)
    own = (rng.normal(size=(60, 3)) + np.eye(3)[labels]) * scale
    words = rng.normal(size=(60, 3)) + 0.5 * np.eye(3)[labels]
    terms = np.stack([own, words])
    found = fit_factors(terms, labels)
    best = likelihood(terms, found, labels)
    for change in (0.95, 1.05):
        for at in range(2):
            moved = found.copy()
            moved[at] *= change
            assert likelihood(terms, moved, labels) < best


def test_a_term_that_misleads_gets_no_factor() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 80)
    right = rng.normal(size=(80, 4)) + np.eye(4)[labels]
    wrong = rng.normal(size=(80, 4)) - np.eye(4)[labels]
    trust, doubt = fit_factors(np.stack([right, wrong]), labels)
    assert trust > 0.3
    assert 0.0 < doubt < 0.002


def test_without_examples_every_factor_is_one() -> None:
    assert fit_factors(np.empty((2, 0, 3)), np.empty(0, np.int64)).tolist() == [1.0, 1.0]


def test_an_unseen_class_gets_the_rule_of_succession() -> None:
    scores = np.array([[0.0, np.log(3.0), 5.0, -2.0]])
    found = np.exp(with_unseen(scores, np.array([True, True, False, False]), 6))[0]
    np.testing.assert_allclose(found[2:], 0.1)  # 1 / (6 + 4)
    np.testing.assert_allclose(found[:2], [0.8 / 4, 0.8 * 3 / 4])


@settings(max_examples=40, deadline=None)
@given(
    seen=st.lists(st.booleans(), min_size=1, max_size=80).filter(any),
    spread=st.sampled_from([0.0, 1.0, 1e5]),
    count=st.integers(1, 50),
)
def test_any_classes_seen_leave_probabilities(seen, spread, count) -> None:
    scores = spread * np.random.default_rng(count).normal(size=(3, len(seen)))
    log_p = with_unseen(scores, np.array(seen), count)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0)


def test_only_examples_whose_class_remains_decide_on_the_factors() -> None:
    rng = np.random.default_rng(6)
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 4])  # 2 and 4 once, 3 never
    terms = rng.normal(size=(2, 8, 5))
    weighed = Weighed.of(list(terms), labels)
    other = terms.copy()
    other[:, 6:] = rng.normal(size=(2, 2, 5))
    other[:, :, 3] = rng.normal(size=(2, 8))
    again = Weighed.of(list(other), labels)
    np.testing.assert_array_equal(weighed.factors, again.factors)
    np.testing.assert_allclose(np.exp(weighed.log_proba[[6, 7], [2, 4]]), 1 / (7 + 5))
    assert weighed.likelihood == weighed.log_proba[np.arange(8), labels].mean()
