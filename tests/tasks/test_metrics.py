"""Metrics against hand-made counts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from blackbox_delta.errors import DataError
from blackbox_delta.tasks import evaluate
from blackbox_delta.types import Vector


def test_metrics_by_hand() -> None:
    y_true = np.array([0, 0, 1, 1, 2])
    proba = np.array(
        [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]]
    )
    metrics = evaluate(y_true, np.log(proba), ("a", "b", "c"))
    assert metrics.n == 5
    assert metrics.accuracy == pytest.approx(3 / 5)
    # F1 = 2 right / (2 right + false + missed): a 2/4, b 4/5, c 0.
    assert metrics.macro_f1 == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert metrics.recall == pytest.approx({"a": 1 / 2, "b": 1, "c": 0})
    expected = -np.mean(np.log([0.8, 0.2, 0.6, 0.8, 0.2]))
    assert metrics.log_loss == pytest.approx(expected)
    assert json.loads(json.dumps(asdict(metrics))) == asdict(metrics)


def test_scores_need_not_be_normalised_nor_float64() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 4)) * 5
    y_true = rng.integers(0, 4, size=50)
    shifted = (scores - 200 * rng.random((50, 1))).astype(np.float32)
    direct = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(50), y_true]
    metrics = evaluate(y_true, shifted, "abcd")
    assert metrics.log_loss == pytest.approx(direct.mean(), rel=1e-4)
    assert metrics.accuracy == np.mean(scores.argmax(axis=1) == y_true)


def test_a_class_that_never_occurs_neither_counts_nor_warns() -> None:
    log_proba = np.log([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    metrics = evaluate(np.array([0, 1]), log_proba, ("a", "b", "never"))
    assert metrics.macro_f1 == 1.0
    assert metrics.recall == {"a": 1.0, "b": 1.0}


def test_a_probability_of_zero_gives_a_finite_loss() -> None:
    log_proba = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    metrics = evaluate(np.array([0, 0]), log_proba, ("a", "b"))
    assert math.isfinite(metrics.log_loss)
    assert metrics.log_loss > 300


def test_a_confident_mistake_costs_what_it_says() -> None:
    small = 1e-30
    log_proba = np.log([[small, 1.0], [0.5, 0.5]])
    metrics = evaluate(np.array([0, 0]), log_proba, ("a", "b"))
    assert metrics.log_loss == pytest.approx(-(math.log(small) + math.log(0.5)) / 2)


@pytest.mark.parametrize(
    ("n", "log_proba", "message"),
    [
        (0, np.zeros((0, 2)), "no examples"),
        (2, np.zeros((3, 2)), r"shape \(3, 2\) where 2 examples and 2 classes"),
        (1, np.zeros((1, 3)), r"need \(1, 2\)"),
        (1, np.array([[0.0, np.nan]]), "not numbers"),
        (1, np.full((1, 2), -np.inf), "not numbers"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(n: int, log_proba: Vector, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(np.zeros(n, dtype=np.int64), log_proba, ("a", "b"))
