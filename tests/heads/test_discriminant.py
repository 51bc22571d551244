import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.covariance import ShrunkCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from blackbox_delta.heads.discriminant import Scatter

CASES = [
    pytest.param([0, 1, 2] * 5, 40, id="wide"),
    pytest.param([0, 1] * 20, 6, id="tall"),
    pytest.param([0] * 12 + [2] * 4, 9, id="unbalanced"),
    pytest.param([0] * 6 + [1] * 5 + [2], 20, id="a-single-example"),
]


def problem(labels: list[int], p: int) -> tuple[np.ndarray, np.ndarray]:
    y, rng = np.array(labels), np.random.default_rng(len(labels) + p)
    design = rng.normal(size=(len(y), p)) * rng.exponential(size=p)
    design += rng.normal(size=(3, p))[y]
    return design - design.mean(axis=0), y


@pytest.mark.parametrize(("labels", "p"), CASES)
@pytest.mark.parametrize("alpha", [0.05, 3.0])
def test_leave_one_out_equals_a_fit_without_the_example(labels, p, alpha) -> None:
    design, y = problem(labels, p)
    found = Scatter.of(design, y, 3).held_out(alpha)
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        x, k = design[others], y[others]
        means = {int(c): x[k == c].mean(axis=0) for c in np.unique(k)}
        within = x - np.stack([means[int(c)] for c in k])
        inverse = np.linalg.inv(within.T @ within + alpha * np.eye(p))
        for c, mean in means.items():
            away = design[i] - mean
            assert found[i, c] == pytest.approx(-0.5 * away @ inverse @ away, abs=1e-8, rel=1e-8)


@pytest.mark.parametrize(("labels", "p"), [([0, 1, 2] * 5, 8), ([0, 1, 2] * 4, 30)])
def test_the_fit_is_scikit_learns(labels, p) -> None:
    """Balanced classes: there scikit-learn's pooling by priors is the pooling by examples."""
    design, y = problem(labels, p)
    scatter = Scatter.of(design, y, 3)
    n, trace = len(y), float((scatter.eigenvalues).sum())
    shrinkage = 0.3
    # (1 - s)·W/n + s·tr(W)/(n p)·I is proportional to W + αI with
    alpha = shrinkage / (1 - shrinkage) * trace / p
    expected = LinearDiscriminantAnalysis(
        solver="lsqr",
        covariance_estimator=ShrunkCovariance(shrinkage=shrinkage),
        priors=np.full(3, 1 / 3),
    ).fit(design, y)
    dual, bias = scatter.parameters(alpha)
    unseen = np.random.default_rng(1).normal(size=(20, p))
    scores = n / (1 - shrinkage) * (unseen @ design.T @ dual + bias)
    np.testing.assert_allclose(
        log_softmax(scores, axis=1), expected.predict_log_proba(unseen), atol=1e-6
    )


def test_constant_features_tell_nothing() -> None:
    scatter = Scatter.of(np.zeros((4, 5)), np.array([0, 1, 0, 1]), 2)
    assert (scatter.held_out(1e-6) == 0.0).all()
    assert all((part == 0.0).all() for part in scatter.parameters(1e-6))
