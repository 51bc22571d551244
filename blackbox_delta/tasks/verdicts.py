"""Whether a tuned model is better than the untuned one, as far as the test examples can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from blackbox_delta.errors import DataError
from blackbox_delta.types import IntArray

Kind: TypeAlias = Literal["gain", "loss", "no reliable difference"]

SIGNIFICANCE = 0.05
UNSTEADY = (
    "The server changes its answers between calls: scored again, the same models would differ by "
    "another amount, which the interval does not cover."
)
_Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Verdict:
    """Whether the tuned model is reliably better than the baseline on the same examples.

    Attributes:
        difference: Accuracy of the tuned model less that of the baseline, as a fraction; the mean
            over the seeds.
        low: Lower end of the 95 % confidence interval of the difference.
        high: Upper end.
        p_value: Exact two-sided paired test; McNemar's for one seed.
        n: Number of examples, the same for all seeds.
        kind: ``gain`` or ``loss`` where p < 0.05 and the interval leaves zero out, else
            ``no reliable difference``.
        sentence: The same in words.
        seeds: Number of training splits.
        worst: The least difference among the seeds.
        best: The largest.
        unsteady: Whether the backend was seen to change its answers between calls.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    kind: Kind
    sentence: str
    seeds: int
    worst: float
    best: float
    unsteady: bool


def paired_verdict(
    y_true: IntArray, baseline_pred: IntArray, tuned_pred: IntArray, *, unsteady: bool = False
) -> Verdict:
    """Compares two classifiers on the same n examples.

    Test and interval are about new examples from where these came from, for these two
    classifiers: they do not say what other training examples would have given.

    The test is McNemar's in its exact form (a binomial test on the examples that exactly one of
    the two got right). The interval is the adjusted Wald interval of Agresti and Min, "Simple
    improved confidence intervals for comparing matched proportions", Statistics in Medicine 24
    (2005) 729-740: the Wald interval after half an example is added to each of the four cells.

    Args:
        y_true: (n,) positions of the right labels.
        baseline_pred: (n,) the answers of the calibrated untuned model.
        tuned_pred: (n,) the answers of the tuned model.
        unsteady: Whether the backend was seen to change its answers between calls.

    Raises:
        DataError: There are no examples, or the numbers differ.
    """
    return verdict_over_seeds(y_true, [baseline_pred], [tuned_pred], unsteady=unsteady)


def verdict_over_seeds(
    y_true: IntArray,
    baselines: Sequence[IntArray],
    tuned: Sequence[IntArray],
    *,
    unsteady: bool = False,
) -> Verdict:
    r"""Compares S pairs of classifiers, one pair a training split, on the same n examples.

    S·n answers are not S·n independent ones: a text that is hard is hard for every seed, and a
    lucky training split is lucky for every text. So a gain is claimed only where both of these
    agree:

    - The *test* is about new examples for these S pairs of classifiers. It turns round the sign
      of an example's differences under all seeds at once, in all :math:`2^n` ways: exact if the
      two sides' names mean nothing (Fisher, "The Design of Experiments", 1935, section 21; the
      distribution is convolved as by Streitberg and Röhmel, "Exact distributions for permutation
      and rank tests", Statistical Software Newsletter 12 (1986) 10-17). One seed makes it
      McNemar's exact test.
    - The *interval* is about new training splits and new examples together. With :math:`d_{si}`
      the difference of seed s on example i, its half-width h has

      .. math:: h^2 = z^2 V_{examples} + t_{S-1}^2 V_{seeds},

      the variances of the mean over n example means and over S seed means: two-way clustering
      (Cameron, Gelbach and Miller, "Robust inference with multiway clustering", Journal of
      Business & Economic Statistics 29 (2011) 238-249) without its third, subtracted term, each
      part at its own degrees of freedom as by Zou and Donner, Statistics in Medicine 27 (2008)
      1693-1702. Without that term the noise of single answers counts twice, so the interval is
      too wide rather than too narrow; no bootstrap of crossed data is exact (McCullagh, Bernoulli 6
      (2000) 285-301), and the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1 (2007)
      386-411) errs on the same side. Half an example is added to each of the four cells, as in
      :func:`paired_verdict`. With one seed the second part is unknown and left out.

    Args:
        y_true: (n,) positions of the right labels.
        baselines: S times (n,) the answers of the calibrated untuned models.
        tuned: S times (n,) the answers of the tuned models, seed by seed.
        unsteady: Whether the backend was seen to change its answers between calls.

    Raises:
        DataError: There are no seeds or no examples, or the numbers differ.
    """
    differences = _differences(y_true, baselines, tuned)
    by_seed = differences.mean(axis=1)
    difference, p_value = float(by_seed.mean()), _sign_flip_test(differences.sum(axis=0))
    low, high = _interval(differences)
    draft = Verdict(
        difference,
        low,
        high,
        p_value,
        n=len(y_true),
        kind=_kind(p_value, low, high),
        sentence="",
        seeds=len(differences),
        worst=float(by_seed.min()),
        best=float(by_seed.max()),
        unsteady=unsteady,
    )
    return replace(draft, sentence=_sentence(draft))


def _differences(
    y_true: IntArray, baselines: Sequence[IntArray], tuned: Sequence[IntArray]
) -> IntArray:
    """(S, n): 1 where only the tuned model is right, -1 where only the baseline is."""
    if not len(tuned) or len(baselines) != len(tuned):
        raise DataError(
            f"cannot compare the baselines of {len(baselines)} seeds with the tuned models of "
            f"{len(tuned)}"
        )
    n = len(y_true)
    for before, after in zip(baselines, tuned, strict=True):
        if n == 0 or len(before) != n or len(after) != n:
            raise DataError(
                f"cannot compare {len(before)} and {len(after)} answers on {n} examples"
            )
    truth = np.asarray(y_true)
    right, was_right = np.asarray(tuned) == truth, np.asarray(baselines) == truth
    differences: IntArray = right.astype(np.int64) - was_right.astype(np.int64)
    return differences


def _sign_flip_test(totals: IntArray) -> float:
    """Two-sided p-value of differences (n,), each summed over the seeds."""
    from scipy.stats import binom

    # With U the sum of those |d| that came out positive, the sum of all is 2 U - Σ|d|.
    chances = np.ones(1)
    sizes, counts = np.unique(np.abs(totals[totals != 0]), return_counts=True)
    for size, count in zip(sizes, counts, strict=True):
        positive = np.zeros(size * count + 1)
        positive[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        # Not by Fourier transforms: their rounding would drown small probabilities.
        chances = np.convolve(chances, positive)
    sums = 2 * np.arange(len(chances)) - np.abs(totals).sum()
    return min(1.0, float(chances[np.abs(sums) >= abs(totals.sum())].sum()))


def _interval(differences: IntArray) -> tuple[float, float]:
    """Of differences (S, n)."""
    from scipy.special import stdtrit

    seeds, n = differences.shape
    means = differences.mean(axis=0)
    # Agresti and Min (2005), section 3: n* = n + 2, each discordant count + 1/2.
    total = n + 2
    centre = means.sum() / total
    squared = _Z**2 * ((np.square(means).sum() + 1) / total - centre**2) / total
    if seeds > 1:
        quantile = stdtrit(seeds - 1, 1 - SIGNIFICANCE / 2)
        squared += quantile**2 * np.var(differences.mean(axis=1), ddof=1) / seeds
    half = math.sqrt(squared)
    return max(-1.0, float(centre - half)), min(1.0, float(centre + half))


def _kind(p_value: float, low: float, high: float) -> Kind:
    if p_value >= SIGNIFICANCE or low <= 0 <= high:
        return "no reliable difference"
    return "gain" if low > 0 else "loss"


def _sentence(verdict: Verdict) -> str:
    many = verdict.seeds > 1
    average = f" on average over {verdict.seeds} seeds" if many else ""
    size = f"{_points(abs(verdict.difference))} points{average} ({_evidence(verdict)})."
    if verdict.kind == "gain":
        said = f"Tuned is better than the calibrated untuned model by {size}"
    elif verdict.kind == "loss":
        said = f"Tuned is worse than the calibrated untuned model by {size} Keep the baseline."
    else:
        signed = f"{_points(verdict.difference)} points{average} ({_evidence(verdict)})."
        said = f"No reliable gain: keep the baseline. Tuned less calibrated untuned model: {signed}"
        if many and verdict.p_value < SIGNIFICANCE:
            said += (
                " The tuned models do differ from the baselines, but too unevenly for so few "
                "seeds to say what the next one would bring."
            )
    return f"{said} {UNSTEADY}" if verdict.unsteady else said


def _evidence(verdict: Verdict) -> str:
    p = "p < 0.001" if verdict.p_value < 0.001 else f"p = {verdict.p_value:.3f}"
    said = (
        f"95 % interval {_points(verdict.low)} to {_points(verdict.high)}; "
        f"exact paired test {p}, {verdict.n} test examples"
    )
    if verdict.seeds == 1:
        return said
    return f"{said}; worst seed {_points(verdict.worst)}, best {_points(verdict.best)}"


def _points(fraction: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * fraction, 1) + 0.0:.1f}"
