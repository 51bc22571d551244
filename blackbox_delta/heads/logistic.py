"""L2-regularised multinomial logistic regression on the features of the evidence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from blackbox_delta.heads.features import Design
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.linear import FittedLinear
from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.heads.threads import sklearn_on_one_thread
from blackbox_delta.types import Evidence, IntArray, Vector

# scikit-learn's C, for examples of mean square length 1.
_STRENGTHS = (1.0, 3.0, 10.0, 30.0)
_SMALLEST_LENGTH = 1e-3  # nats, below which float32 log-probabilities are rounding
_FOLDS = 5


def stratified_folds(labels: IntArray, folds: int) -> IntArray:
    """The fold (n,) of each example: sorted by class, the examples are dealt out in turn.

    Deterministic, and unlike scikit-learn's it takes classes with fewer examples than folds.
    """
    result = np.empty(len(labels), dtype=np.int64)
    result[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    return result


def fit_logistic(
    matrix: Vector, labels: IntArray, choices: int, strength: float
) -> tuple[Vector, Vector]:
    """Weights (p, c) and bias (c,) on the examples given, some classes of which may be missing.

    Scores sum to zero over the classes present. A missing class gets that average score,
    less log(n + 1): the odds of what was not seen in n examples.
    """
    from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    weights = np.zeros((matrix.shape[1], choices))
    bias = np.full(choices, -np.log(len(labels) + 1.0))
    bias[present] = 0.0
    if len(present) == 1:
        return weights, bias
    with warnings.catch_warnings():
        # Many classes with an example each look like a regression to scikit-learn.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        model = LogisticRegression(C=strength, max_iter=1000).fit(matrix, labels)
    coefficients, intercept = model.coef_.T, model.intercept_
    if len(present) == 2:  # scikit-learn keeps the difference of the two classes alone
        coefficients = np.hstack([-coefficients, coefficients]) / 2.0
        intercept = np.concatenate([-intercept, intercept]) / 2.0
    weights[:, present] = coefficients
    bias[present] = intercept
    return weights, bias


@dataclass(frozen=True)
class Rotated:
    """A centred design in its own row space, where fits are quicker: r <= n columns, not p.

    An L2 penalty does not notice a rotation.

    Attributes:
        matrix: (n, r), rows of mean square length 1 unless all features are constant.
        basis: (p, r) with matrix = design · basis.
    """

    matrix: Vector
    basis: Vector

    @classmethod
    def of(cls, design: Vector) -> Rotated:
        """Rotates and scales a centred (n, p) design."""
        left, values, right = np.linalg.svd(design, full_matrices=False)
        length = max(float(np.sqrt((values**2).sum() / len(design))), _SMALLEST_LENGTH)
        return cls(left * (values / length), right.T / length)


def _cross_validate(matrix: Vector, labels: IntArray, choices: int, strength: float) -> Vector:
    folds = stratified_folds(labels, min(_FOLDS, len(labels)))
    scores = np.empty((len(labels), choices))
    for fold in range(folds.max() + 1):
        held = folds == fold
        weights, bias = fit_logistic(matrix[~held], labels[~held], choices, strength)
        scores[held] = matrix[held] @ weights + bias
    return log_softmax(scores)


def _search(matrix: Vector, labels: IntArray, choices: int) -> tuple[float, Vector]:
    """The strength of the best cross-validated likelihood, and its predictions (n, c)."""
    rows = np.arange(len(labels))
    tried = [_cross_validate(matrix, labels, choices, strength) for strength in _STRENGTHS]
    best = int(np.argmax([predicted[rows, labels].mean() for predicted in tried]))
    return float(_STRENGTHS[best]), tried[best]


@dataclass(frozen=True)
class LogisticHead(LearnedHead):
    """Logistic regression on the label words' and top tokens' log-probabilities.

    The strength is chosen by the cross-validated likelihood over fixed, stratified folds. Each
    call fits about twenty models: for the search itself ``ridge`` is the head to take.
    """

    kind: str = "logistic"

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedLinear:
        del reference
        design, choices = Design.of(evidence), evidence.label_logprobs.shape[1]
        with sklearn_on_one_thread():
            rotated = Rotated.of(design.matrix)
            strength, _ = _search(rotated.matrix, labels, choices)
            weights, bias = fit_logistic(rotated.matrix, labels, choices, strength)
        return FittedLinear.of(self.kind, design, rotated.basis @ weights, bias)

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        del reference
        with sklearn_on_one_thread():
            matrix = Rotated.of(Design.of(evidence).matrix).matrix
            return _search(matrix, labels, evidence.label_logprobs.shape[1])[1]
