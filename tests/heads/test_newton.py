from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from blackbox_delta.heads.newton import likeliest
from blackbox_delta.types import Vector

BOUNDS = (1e-3, 50.0)


def problems(
    seed: int, sets: int, q: int, n: int, c: int, signal: float, alike: float = 0.0
) -> tuple[Vector, Vector]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    terms = rng.standard_normal((sets, q, n, c))
    terms[:, 0] += signal * np.eye(c)[labels]
    terms[:, 1:] += alike * terms[:, :1]
    terms -= terms.mean(axis=-1, keepdims=True)
    terms /= np.sqrt((terms**2).mean(axis=(-2, -1), keepdims=True))
    return terms, (n * np.eye(c)[labels] + 1) / (n + c)


def loss(factors: Vector, terms: Vector, targets: Vector) -> float:
    scores = np.tensordot(factors, terms, 1)
    return float(-(targets * log_softmax(scores, axis=1)).sum() / len(targets))


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    q=st.integers(1, 3),
    n=st.integers(1, 60),
    c=st.integers(2, 8),
    signal=st.sampled_from([-3.0, 0.0, 0.5, 3.0, 30.0]),
    alike=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_no_other_optimizer_finds_better_factors(
    seed: int, q: int, n: int, c: int, signal: float, alike: float
) -> None:
    terms, targets = problems(seed, 3, q, n, c, signal, alike)
    found = likeliest(terms, targets)
    assert found.shape == (3, q)
    assert ((found >= BOUNDS[0]) & (found <= BOUNDS[1])).all()
    for factors, each in zip(found, terms, strict=True):
        other = minimize(
            loss, np.ones(q), (each, targets), method="L-BFGS-B", bounds=[BOUNDS] * q, tol=1e-14
        )
        assert loss(factors, each, targets) <= other.fun + 1e-6


def test_sets_do_not_meddle_with_one_another() -> None:
    terms, targets = problems(1, 5, 3, 20, 4, 1.0)
    together = likeliest(terms, targets)
    alone = np.concatenate([likeliest(each[None], targets) for each in terms])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["nothing", "twice the same"])
def test_terms_that_say_nothing_or_the_same_do_no_harm(kind: str) -> None:
    terms, targets = problems(2, 1, 2, 20, 3, 1.0)
    terms[:, 1] = 0.0 if kind == "nothing" else terms[:, 0]
    alone = likeliest(terms[:, :1], targets)
    both = likeliest(terms, targets)
    assert np.isfinite(both).all()
    scores = np.einsum("sq,sqnc->snc", both, terms)
    np.testing.assert_allclose(scores, alone[:, :, None, None][0] * terms[:, 0], atol=1e-3)
