"""Metrics against hand-made counts; verdicts against closed forms and their own error rates."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import DataError
from blackbox_delta.tasks import Verdict, evaluate, paired_verdict
from blackbox_delta.types import IntArray, Vector


def outcomes(gained: int, lost: int, n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Answers of two classifiers that differ in exactly ``gained`` + ``lost`` of n examples."""
    y_true = np.zeros(n, dtype=np.int64)
    baseline, tuned = y_true.copy(), y_true.copy()
    baseline[:gained] = 1
    tuned[gained : gained + lost] = 1
    return y_true, baseline, tuned


def verdict(gained: int, lost: int, n: int) -> Verdict:
    return paired_verdict(*outcomes(gained, lost, n))


# ----------------------------------------------------------------------------- metrics


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
    assert metrics.log_loss > 10


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


# ---------------------------------------------------------------------------- verdicts


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 100))
def test_p_value_is_the_exact_binomial_tail(gained: int, lost: int, same: int) -> None:
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    assert verdict(gained, lost, changed + same).p_value == pytest.approx(min(1.0, 2 * tail))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 100))
def test_interval_is_walds_after_half_an_example_in_each_cell(
    gained: int, lost: int, same: int
) -> None:
    n = gained + lost + same
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * same + [1, -1, 0, 0])
    weights = np.array([1.0] * n + [0.5] * 4)
    centre = np.average(differences, weights=weights)
    variance = np.average((differences - centre) ** 2, weights=weights)
    half = 1.959964 * math.sqrt(variance / (n + 2))
    found = verdict(gained, lost, n)
    assert found.low == pytest.approx(max(-1, centre - half), abs=1e-6)
    assert found.high == pytest.approx(min(1, centre + half), abs=1e-6)
    assert found.low <= found.difference <= found.high
    assert found.difference == pytest.approx((gained - lost) / n)


def test_a_claim_is_never_at_odds_with_its_interval() -> None:
    for gained in range(0, 45, 4):
        for lost in range(0, gained + 1, 2):
            for n in (max(gained + lost, 1), 5_000):
                found = verdict(gained, lost, n)
                if found.kind == "gain":
                    assert found.low > 0


@pytest.mark.parametrize("changed", [5, 6, 12, 30, 75])
def test_equal_models_are_told_apart_at_most_one_time_in_twenty(changed: int) -> None:
    # Exact: under equal accuracy each discordant example falls either way with 1/2.
    false_claims = sum(
        math.comb(changed, gained) / 2**changed
        for gained in range(changed + 1)
        if verdict(gained, changed - gained, changed + 10).kind != "no reliable difference"
    )
    assert false_claims <= 0.05
    if changed >= 30:  # not for want of ever claiming anything
        assert false_claims > 0.02


@pytest.mark.parametrize(("gain", "loss"), [(0.1, 0.1), (0.3, 0.1), (0.05, 0.15), (0.4, 0.02)])
def test_the_interval_covers_the_true_difference(gain: float, loss: float) -> None:
    n, covered = 30, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            same = n - gained - lost
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            chance = ways * gain**gained * loss**lost * (1 - gain - loss) ** same
            if chance > 1e-6:
                found = verdict(gained, lost, n)
                covered += chance * (found.low <= gain - loss <= found.high)
    assert covered > 0.93


def test_a_large_real_gain_is_found() -> None:
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(100):
        y_true = rng.integers(0, 4, 400)
        wrong = (y_true + 1) % 4
        baseline = np.where(rng.random(400) < 0.70, y_true, wrong)
        tuned = np.where(rng.random(400) < 0.82, y_true, wrong)
        claims += paired_verdict(y_true, baseline, tuned).kind == "gain"
    assert claims > 90


def test_the_sentences() -> None:
    gain, loss, none = verdict(50, 17, 400), verdict(10, 40, 300), verdict(9, 12, 100)
    assert (gain.kind, loss.kind, none.kind) == ("gain", "loss", "no reliable difference")
    assert gain.sentence == (
        "Tuned is better than the calibrated untuned model by 8.2 points "
        "(95 % interval 4.3 to 12.1; exact paired test p < 0.001, 400 test examples)."
    )
    assert loss.sentence.startswith("Tuned is worse than the calibrated untuned model by 10.0")
    assert loss.sentence.endswith("Keep the baseline.")
    assert none.sentence == (
        "No reliable gain: keep the baseline. Tuned less calibrated untuned model: "
        "-3.0 points (95 % interval -11.9 to 6.1; exact paired test p = 0.664, "
        "100 test examples)."
    )
    assert "model: 0.0 points" in verdict(0, 0, 50).sentence


def test_a_verdict_can_be_written_as_json() -> None:
    found = verdict(20, 3, 100)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_both_wrong_in_different_ways_counts_as_no_difference() -> None:
    found = paired_verdict(np.array([0, 0]), np.array([1, 0]), np.array([2, 0]))
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_answers_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="cannot compare 2 and 3 answers on 3 examples"):
        paired_verdict(np.zeros(3, int), np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(DataError, match="on 0 examples"):
        paired_verdict(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
