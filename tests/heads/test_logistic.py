import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from blackbox_delta.heads.logistic import Rotated, fit_logistic, stratified_folds


@pytest.mark.parametrize("c", [2, 4])
def test_probabilities_are_scikit_learns(c) -> None:
    rng = np.random.default_rng(c)
    matrix, labels = rng.normal(size=(30, 5)), np.arange(30) % c
    weights, bias = fit_logistic(matrix, labels, c, 0.7)
    expected = LogisticRegression(C=0.7).fit(matrix, labels).predict_log_proba(matrix)
    np.testing.assert_allclose(log_softmax(matrix @ weights + bias, axis=1), expected, atol=1e-6)


def test_a_class_never_seen_is_unlikely_but_not_impossible() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 2] * 20)
    weights, bias = fit_logistic(rng.normal(size=(40, 3)), labels, 3, 1.0)
    probabilities = np.exp(log_softmax(bias[None], axis=1))[0]
    assert 0.0 < probabilities[1] < 0.05
    assert (weights[:, 1] == 0).all()


@pytest.mark.parametrize("counts", [[16, 16], [1, 1], [7, 1, 12], [1, 1, 1, 1, 1]])
def test_folds_are_stratified_and_never_everything(counts) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    folds = stratified_folds(labels, min(5, len(labels)))
    for label, count in enumerate(counts):
        sizes = np.bincount(folds[labels == label], minlength=min(5, len(labels)))
        assert sizes.max() - sizes.min() <= 1
        assert sizes.sum() == count
    assert len(np.unique(folds)) == min(5, len(labels))


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_rotation_keeps_lengths_and_angles(shape) -> None:
    design = np.random.default_rng(1).normal(size=shape)
    rotated = Rotated.of(design)
    kernel = design @ design.T
    unit = np.trace(kernel) / len(design)
    np.testing.assert_allclose(rotated.matrix @ rotated.matrix.T, kernel / unit, atol=1e-10)
    np.testing.assert_allclose(design @ rotated.basis, rotated.matrix, atol=1e-10)
