"""Verdicts against closed forms, brute force, and their own error rates."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, binomtest, t

from blackbox_delta.errors import DataError
from blackbox_delta.tasks import Verdict, paired_verdict, verdict_over_seeds
from blackbox_delta.types import IntArray

SIMULATIONS = 2_000
#: At a true rate of 5 % more claims than this come up less than once in a thousand times.
MOST_CLAIMS = int(binom.ppf(0.999, SIMULATIONS, 0.05))


def outcomes(gained: int, lost: int, n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Answers of two classifiers that differ in exactly ``gained`` + ``lost`` of n examples."""
    y_true = np.zeros(n, dtype=np.int64)
    baseline, tuned = y_true.copy(), y_true.copy()
    baseline[:gained] = 1
    tuned[gained : gained + lost] = 1
    return y_true, baseline, tuned


def verdict(gained: int, lost: int, n: int) -> Verdict:
    return paired_verdict(*outcomes(gained, lost, n))


# ---------------------------------------------------------------------------- one seed


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 100))
def test_p_value_is_the_exact_binomial_tail(gained: int, lost: int, same: int) -> None:
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    found = verdict(gained, lost, changed + same).p_value
    assert found == pytest.approx(min(1.0, 2 * tail))
    assert found == pytest.approx(binomtest(gained, changed).pvalue if changed else 1.0)


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


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_verdict_can_be_written_as_json(seeds: int) -> None:
    y_true, baseline, tuned = outcomes(20, 3, 100)
    found = verdict_over_seeds(y_true, [baseline] * seeds, [tuned] * seeds)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert found.seeds == seeds


def test_a_server_that_changes_its_answers_is_named() -> None:
    answers = outcomes(50, 17, 400)
    steady, unsteady = (paired_verdict(*answers, unsteady=changes) for changes in (False, True))
    assert unsteady.sentence.startswith(steady.sentence)
    assert "server changes its answers between calls" in unsteady.sentence
    assert "the interval does not cover" in unsteady.sentence
    assert (steady.unsteady, unsteady.unsteady) == (False, True)
    assert (steady.low, steady.high) == (unsteady.low, unsteady.high)


def test_both_wrong_in_different_ways_counts_as_no_difference() -> None:
    found = paired_verdict(np.array([0, 0]), np.array([1, 0]), np.array([2, 0]))
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_answers_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="cannot compare 2 and 3 answers on 3 examples"):
        paired_verdict(np.zeros(3, int), np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(DataError, match="on 0 examples"):
        paired_verdict(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))


# ------------------------------------------------------------------------- several seeds

tables = st.tuples(st.integers(1, 4), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.int64, (2, *shape), elements=st.integers(0, 1))
)


@given(tables)
def test_the_test_turns_round_every_set_of_examples(answers: IntArray) -> None:
    baselines, tuned = answers
    n = answers.shape[2]
    totals = (tuned - baselines).sum(axis=0)
    signs = np.array(list(product((-1, 1), repeat=n)))
    as_far = np.abs(signs @ totals) >= abs(totals.sum())
    found = verdict_over_seeds(np.ones(n, int), list(baselines), list(tuned))
    assert found.p_value == pytest.approx(as_far.mean())


@given(tables)
def test_the_interval_adds_the_spread_of_the_seeds(answers: IntArray) -> None:
    baselines, tuned = answers
    seeds, n = answers.shape[1:]
    differences = tuned - baselines
    shown = np.concatenate([differences.mean(axis=0), [1, -1, 0, 0]])
    weights = np.array([1.0] * n + [0.5] * 4)
    centre = np.average(shown, weights=weights)
    squared = 1.959964**2 * np.average((shown - centre) ** 2, weights=weights) / (n + 2)
    if seeds > 1:
        squared += (t.ppf(0.975, seeds - 1) * differences.mean(axis=1).std(ddof=1)) ** 2 / seeds
    found = verdict_over_seeds(np.ones(n, int), list(baselines), list(tuned))
    assert found.low == pytest.approx(max(-1, centre - math.sqrt(squared)), abs=1e-6)
    assert found.high == pytest.approx(min(1, centre + math.sqrt(squared)), abs=1e-6)
    assert found.low <= found.difference <= found.high
    assert found.worst <= found.difference + 1e-12
    assert found.best >= found.difference - 1e-12


@given(tables)
def test_the_two_sides_are_treated_alike(answers: IntArray) -> None:
    baselines, tuned = answers
    y_true = np.ones(answers.shape[2], int)
    there = verdict_over_seeds(y_true, list(baselines), list(tuned))
    back = verdict_over_seeds(y_true, list(tuned), list(baselines))
    assert back.p_value == pytest.approx(there.p_value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_the_same_seed_five_times_is_no_more_than_one() -> None:
    y_true, baseline, tuned = outcomes(20, 9, 200)
    once = paired_verdict(y_true, baseline, tuned)
    often = verdict_over_seeds(y_true, [baseline] * 5, [tuned] * 5)
    assert often.p_value == pytest.approx(once.p_value)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_the_sentences_over_seeds() -> None:
    y_true = np.zeros(100, dtype=np.int64)
    right = [np.where(np.arange(100) < count, 0, 1) for count in range(101)]
    even = verdict_over_seeds(y_true, [right[60]] * 3, [right[70], right[71], right[72]])
    assert even.sentence == (
        "Tuned is better than the calibrated untuned model by 11.0 points on average over 3 seeds "
        "(95 % interval 4.1 to 17.5; exact paired test p < 0.001, 100 test examples; worst seed "
        "10.0, best 12.0)."
    )
    worse = verdict_over_seeds(y_true, [right[70]] * 3, [right[60]] * 3)
    assert worse.sentence.startswith("Tuned is worse than the calibrated untuned model by 10.0")
    assert worse.sentence.endswith("worst seed -10.0, best -10.0). Keep the baseline.")
    uneven = verdict_over_seeds(y_true, [right[60]] * 3, [right[60], right[65], right[90]])
    assert uneven.p_value < 0.001
    assert uneven.kind == "no reliable difference"
    assert uneven.sentence.startswith(
        "No reliable gain: keep the baseline. Tuned less calibrated untuned model: 11.7 points on "
        "average over 3 seeds (95 % interval"
    )
    assert uneven.sentence.endswith(
        "too unevenly for so few seeds to say what the next one would bring."
    )


def test_seeds_that_do_not_match_are_refused() -> None:
    zeros = np.zeros(3, int)
    with pytest.raises(DataError, match="baselines of 1 seeds with the tuned models of 2"):
        verdict_over_seeds(zeros, [zeros], [zeros, zeros])
    with pytest.raises(DataError, match="of 0 seeds"):
        verdict_over_seeds(zeros, [], [])
    with pytest.raises(DataError, match="cannot compare 3 and 2 answers on 3 examples"):
        verdict_over_seeds(zeros, [zeros, zeros], [zeros, zeros[:2]])


# --------------------------------------------------------------------------- error rates


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("shared", [0.2, 0.9])
def test_on_noise_no_gain_is_claimed(seeds: int, shared: float) -> None:
    """Labels by lot; the classifiers agree with one another as much as ``shared`` says."""
    rng = np.random.default_rng(seeds)
    claims = 0
    for _ in range(SIMULATIONS):
        y_true = rng.integers(0, 3, 120)
        common, side = rng.normal(size=(120, 3)), rng.normal(size=(2, 1, 120, 3))
        own = rng.normal(size=(2, seeds, 120, 3))
        # Two families, baselines and tuned: alike within, and somewhat alike across.
        scores = 0.5 * common + shared * side + (1 - shared) * own
        baselines, tuned = scores.argmax(axis=-1)
        claims += (
            verdict_over_seeds(y_true, list(baselines), list(tuned)).kind
            != "no reliable difference"
        )
    assert claims <= MOST_CLAIMS


def runs_by_lot(
    rng: np.random.Generator, seeds: int, n: int, spread: float, gain: float = 0.0
) -> tuple[IntArray, IntArray, IntArray]:
    """Answers to n examples that are about as hard for one seed as for another.

    Baselines are right on 70 %; tuning adds ``gain`` to that, more or less by ``spread``.
    """
    difficulty = rng.random(n) + rng.normal(0, 0.2, size=(2, seeds, n))
    tuning = rng.normal(gain, spread, size=(seeds, 1))
    baselines, tuned = difficulty < 0.7 + np.array([np.zeros_like(tuning), tuning])
    return np.ones(n, dtype=np.int64), baselines.astype(np.int64), tuned.astype(np.int64)


def test_tuning_that_helps_by_luck_alone_is_not_claimed_to_help() -> None:
    rng = np.random.default_rng(1)
    claims, fooled = 0, []
    for turn in range(SIMULATIONS):
        y_true, baselines, tuned = runs_by_lot(rng, seeds=5, n=200, spread=0.1)
        found = verdict_over_seeds(y_true, list(baselines), list(tuned))
        claims += found.kind != "no reliable difference"
        if turn < 200:
            # What must not be done: S·n answers as if they were independent.
            pooled = paired_verdict(np.tile(y_true, 5), baselines.ravel(), tuned.ravel())
            fooled.append(pooled.kind != "no reliable difference")
    assert claims <= MOST_CLAIMS
    assert np.mean(fooled) > 0.2


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (5, 0.0), (5, 0.03)])
def test_a_real_gain_of_ten_points_is_found(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(200):
        y_true, baselines, tuned = runs_by_lot(rng, seeds, 500, spread, gain=0.1)
        found.append(verdict_over_seeds(y_true, list(baselines), list(tuned)))
    assert sum(one.kind == "gain" for one in found) >= 190
    assert np.mean([one.difference for one in found]) == pytest.approx(0.1, abs=0.02)
