import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import Ridge, RidgeCV

from blackbox_delta.heads import CalibratedHead, RidgeHead
from blackbox_delta.heads import ridge as ridge_module
from blackbox_delta.heads.ridge import Selection, Spectrum
from blackbox_delta.heads.weighing import fit_sharpness
from blackbox_delta.types import Evidence


def centred_problem(n: int, p: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + p + c)
    design = rng.normal(size=(n, p)) * rng.exponential(size=p)
    return design - design.mean(axis=0), np.eye(c)[rng.integers(0, c, n)]


SHAPES = [(12, 40, 3), (30, 5, 2), (8, 8, 4), (2, 3, 2)]


@pytest.mark.parametrize(("n", "p", "c"), SHAPES)
def test_leave_one_out_equals_refits_without_the_example(n, p, c) -> None:
    design, targets = centred_problem(n, p, c)
    alphas = np.array([0.03, 1.0, 50.0])
    closed = Spectrum.of(design).held_out_residuals(targets, alphas)
    assert closed.shape == (3, n, c)
    for g, alpha in enumerate(alphas):
        for i in range(n):
            others = np.delete(np.arange(n), i)
            refit = Ridge(alpha=alpha, tol=1e-12).fit(design[others], targets[others])
            np.testing.assert_allclose(
                targets[i] - closed[g, i], refit.predict(design[[i]])[0], atol=1e-8
            )


@pytest.mark.parametrize(("n", "p", "c"), SHAPES)
def test_weights_are_scikit_learns(n, p, c) -> None:
    design, targets = centred_problem(n, p, c)
    expected = Ridge(alpha=2.5).fit(design, targets)
    np.testing.assert_allclose(
        Spectrum.of(design).weights(targets, 2.5), expected.coef_.T, atol=1e-9
    )


def offsets_and_targets(selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    offsets = selection.trust * selection.design.label_scores
    return offsets, selection.targets - offsets


def test_held_out_predictions_are_those_of_refits_around_the_verbalizer(make_evidence) -> None:
    evidence, labels = make_evidence(24, 3, 10, signal=0.4, words=2.0)
    selection = Selection.of(evidence, labels)
    assert selection.trust > 0.0
    offsets, rest = offsets_and_targets(selection)
    for i in range(24):
        others = np.delete(np.arange(24), i)
        refit = Ridge(alpha=selection.alpha, tol=1e-12)
        refit.fit(selection.design.matrix[others], rest[others])
        expected = offsets[i] + refit.predict(selection.design.matrix[[i]])[0]
        np.testing.assert_allclose(selection.held_out[i], expected, atol=1e-8)


def test_strength_and_trust_minimise_the_leave_one_out_error(make_evidence) -> None:
    evidence, labels = make_evidence(40, 3, 15, signal=0.4, words=2.0)
    selection = Selection.of(evidence, labels)
    error = ((selection.targets - selection.held_out) ** 2).sum()
    design = selection.design
    for trust in selection.trust * np.array([0.0, 0.8, 1.2, 2.0]):
        rest = selection.targets - trust * design.label_scores
        alphas = ridge_module._STRENGTHS * Spectrum.of(design.matrix).unit
        others = RidgeCV(alphas=alphas, store_cv_results=True).fit(design.matrix, rest)
        assert error < others.cv_results_.sum(axis=(0, 1)).min()


def test_the_fit_is_scikit_learns_around_the_verbalizer(make_evidence) -> None:
    evidence, labels = make_evidence(40, 3, 15, signal=0.4, words=2.0)
    unseen, _ = make_evidence(50, 3, 15, seed=1, signal=0.4, words=2.0)
    selection = Selection.of(evidence, labels)
    design = selection.design
    expected = Ridge(alpha=selection.alpha).fit(design.matrix, offsets_and_targets(selection)[1])
    matrix = (design.features(unseen) - design.mean) * design.weight
    scores = selection.trust * matrix[:, :3] / design.weight[:3] + expected.predict(matrix)
    sharpness = fit_sharpness(selection.held_out, labels)
    np.testing.assert_allclose(
        RidgeHead().fit(evidence, labels, None).log_proba(unseen),
        log_softmax(sharpness * scores, axis=1),
        atol=1e-8,
    )


def test_useless_top_tokens_leave_the_calibrated_verbalizer(make_evidence) -> None:
    """Where only the label words tell, their own order is kept."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    logprobs = rng.normal(size=(400, 4)) + 2.0 * np.eye(4)[labels] - [9, 4, 7, 5]
    noise, _ = make_evidence(400, 4, 20, seed=3, signal=0.0)
    evidence = Evidence(logprobs.astype(np.float32), noise.top_ids, noise.top_logprobs)
    training, test = evidence.select(slice(0, 24)), evidence.select(slice(24, None))
    rates = [
        (head.fit(training, labels[:24], None).log_proba(test).argmax(axis=1) == labels[24:]).mean()
        for head in (RidgeHead(), CalibratedHead())
    ]
    assert rates[0] > rates[1] - 0.04


def test_a_label_word_that_misleads_is_not_trusted(make_evidence) -> None:
    evidence, labels = make_evidence(40, 2, 20, signal=0.0)
    logprobs = (-3.0 * np.eye(2)[labels]).astype(np.float32)
    logprobs += np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    misleading = Evidence(logprobs, evidence.top_ids, evidence.top_logprobs)
    assert Selection.of(misleading, labels).trust == 0.0
    held = RidgeHead().held_out(misleading, labels, None)
    assert (held.argmax(axis=1) == labels).mean() > 0.8


def test_held_out_of_one_example_does_not_depend_on_its_own_label_alone(make_evidence) -> None:
    """Only strength and temperature, two numbers, have seen the label."""
    evidence, labels = make_evidence(40, 2, 20, signal=0.0)
    flipped = labels.copy()
    flipped[3] = 1 - flipped[3]
    before = RidgeHead().held_out(evidence, labels, None)[3]
    after = RidgeHead().held_out(evidence, flipped, None)[3]
    np.testing.assert_allclose(np.exp(before), np.exp(after), atol=0.15)
