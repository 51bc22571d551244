"""Pools against sums written out row by row, missing answers included."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import seen_of
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from blackbox_delta.auto.asking import Seen
from blackbox_delta.auto.comparing import comparable_losses
from blackbox_delta.auto.pooling import NEGLIGIBLE, Pooled, steps, weigh
from blackbox_delta.auto.views import DEMONSTRATIONS
from blackbox_delta.types import IntArray, Vector


def views(seed: int, views: int, n: int, c: int, missing: float = 0.0) -> list[Seen]:
    """Held-out predictions of views that know a part of the examples each, at least one."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(views):
        held_out = np.log(rng.dirichlet(np.full(c, 0.7), n) + 1e-9)
        unknown = rng.random(n) < missing
        unknown[rng.integers(n)] = False
        held_out[unknown] = np.nan
        found.append(seen_of(held_out, f"view {number}"))
    return found


def labels_of(seed: int, n: int, c: int) -> IntArray:
    return np.random.default_rng([seed, 1]).permutation(np.arange(n) % c)


def mean_by_hand(seen: list[Seen], weights: Vector) -> list[list[float] | None]:
    """Each example's mean log-probabilities over those who know it; ``None`` where none does."""
    n, c = seen[0].held_out.shape
    rows: list[list[float] | None] = []
    for i in range(n):
        known = [v for v in range(len(seen)) if not math.isnan(seen[v].held_out[i, 0])]
        say = [weights[v] for v in known]
        if known and sum(say) == 0:
            say = [1.0 for _ in known]
        both = list(zip(say, known, strict=True))
        sums = [sum(w * seen[v].held_out[i, k] for w, v in both) for k in range(c)]
        rows.append([value / sum(say) for value in sums] if known else None)
    return rows


scenes = st.tuples(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 12), st.integers(2, 4))


@settings(deadline=None, max_examples=30)
@given(scene=scenes, missing=st.sampled_from([0.0, 0.3, 0.8]), idle=st.booleans())
def test_a_pool_is_the_mean_over_those_who_know(
    scene: tuple[int, int, int, int], missing: float, *, idle: bool
) -> None:
    seed, m, n, c = scene
    seen, labels = views(*scene, missing), labels_of(seed, n, c)
    weights = np.random.default_rng([seed, 2]).random(m) + 0.01
    if idle and m > 1:  # it answers only where nobody else can
        weights[0] = 0.0
    pooled = Pooled.of(seen, weights, labels)
    np.testing.assert_allclose(pooled.weights, weights / weights.sum())
    losses, right = [], []
    for i, mean in enumerate(mean_by_hand(seen, weights)):
        if mean is None:
            assert np.isnan(pooled.held_out[i]).all()
            continue
        powers = [math.exp(pooled.sharpness * (value - max(mean))) for value in mean]
        expected = [power / sum(powers) for power in powers]
        np.testing.assert_allclose(np.exp(pooled.held_out[i]), expected, atol=1e-9)
        losses.append(-math.log(expected[labels[i]]))
        right.append(int(np.argmax(expected)) == labels[i])
    assert pooled.loss == pytest.approx(np.mean(losses))
    assert pooled.accuracy == pytest.approx(np.mean(right))


@pytest.mark.parametrize("seed", range(4))
def test_the_sharpness_is_the_likeliest_under_smoothed_labels(seed: int) -> None:
    """Against a search over the factor alone; targets hold one imagined example of each class."""
    n, c = 30, 3
    labels = labels_of(seed, n, c)
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, c)) + 2.0 * np.eye(c)[labels]
    held_out = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    pooled = Pooled.of([seen_of(held_out)], np.ones(1), labels)
    targets = (n * np.eye(c)[labels] + 1) / (n + c)

    def loss(factor: float) -> float:
        tempered = factor * held_out
        tempered = tempered - np.logaddexp.reduce(tempered, axis=1, keepdims=True)
        return -float((targets * tempered).sum())

    best = minimize_scalar(loss, bounds=(0.01, 20), method="bounded").x
    assert pooled.sharpness == pytest.approx(best, rel=0.02)


def test_those_who_agree_by_chance_alone_become_surer_together() -> None:
    """Members that err independently are surer together than each alone: sharpness above 1."""
    n = 60
    labels = labels_of(0, n, 2)
    rng = np.random.default_rng(0)
    seen = []
    for number in range(8):
        odds = rng.normal(np.where(labels == 1, 1.0, -1.0), np.sqrt(2.0))  # calibrated log-odds
        seen.append(seen_of(np.stack([-np.log1p(np.exp(odds)), -np.log1p(np.exp(-odds))], axis=1)))
        alone = Pooled.of(seen[-1:], np.ones(1), labels)
        assert 0.3 < alone.sharpness < 2.0, number
    together = Pooled.of(seen, np.ones(8), labels)
    assert together.sharpness > 3.0
    assert together.loss < min(Pooled.of([each], np.ones(1), labels).loss for each in seen)


# ------------------------------------------------------------------------- weights


@settings(deadline=None, max_examples=25)
@given(scene=scenes, missing=st.sampled_from([0.0, 0.5]))
def test_weights_are_likelihoods_to_a_power(
    scene: tuple[int, int, int, int], missing: float
) -> None:
    """The likelihood of n examples at a view's mean loss, to the power of 1/√n."""
    seed, _, n, c = scene
    seen, labels = views(*scene, missing), labels_of(seed, n, c)
    found = weigh(seen, labels)
    losses = comparable_losses(seen, labels)
    if not missing:
        losses = [-sum(each.held_out[i, labels[i]] for i in range(n)) / n for each in seen]
    powers = [math.exp(-n * loss) ** (1 / math.sqrt(n)) for loss in losses]
    np.testing.assert_allclose(found, np.array(powers) / sum(powers), rtol=1e-6, atol=1e-12)


def test_equals_share_and_the_better_weigh_more() -> None:
    labels = labels_of(0, 20, 2)
    good = np.log(np.where(np.eye(2)[labels] > 0, 0.8, 0.2))
    even = np.full((20, 2), np.log(0.5))
    one, same, worse = seen_of(good), seen_of(good.copy()), seen_of(even)
    found = weigh([one, worse, same], labels)
    assert found[0] == found[2]
    assert found[0] > 2 * found[1]
    assert found.sum() == pytest.approx(1.0)


def test_views_that_know_easy_examples_alone_weigh_no_more() -> None:
    """All are equally good, on the hard half as on the easy one."""
    labels = np.arange(16) % 2
    right = np.where(np.arange(16) < 8, 0.9, 0.6)
    held_out = np.log(np.where(np.eye(2)[labels] > 0, right[:, None], 1 - right[:, None]))
    easy, hard = held_out.copy(), held_out.copy()
    easy[8:], hard[:8] = np.nan, np.nan
    found = weigh([seen_of(easy), seen_of(held_out), seen_of(hard)], labels)
    np.testing.assert_allclose(found, 1 / 3)


def test_kinds_have_an_equal_say() -> None:
    """Many good views of one kind have no more together than two bad ones of another."""
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2
    words = [seen_of(answers(rng, labels, 3.0), f"words {i}") for i in range(5)]
    shown = [seen_of(answers(rng, labels, 0.5), f"shown {i}", DEMONSTRATIONS) for i in range(2)]
    alone = np.concatenate([weigh(kind, labels) for kind in (words, shown)])
    np.testing.assert_allclose(weigh([*words, *shown], labels), alone / 2)
    order = [5, 0, 6, 1, 2, 3, 4]
    mixed = [[*words, *shown][i] for i in order]
    np.testing.assert_allclose(weigh(mixed, labels), alone[order] / 2)


def answers(rng: np.random.Generator, labels: IntArray, signal: float) -> Vector:
    """(n, 2) log class probabilities that lean to the right label."""
    scores = rng.standard_normal((len(labels), 2)) + signal * np.eye(2)[labels]
    result: Vector = log_softmax(scores, axis=1)
    return result


def test_hopeless_views_do_not_overflow() -> None:
    labels = labels_of(0, 64, 2)
    wrong = np.where(np.eye(2)[labels] > 0, -5000.0, -1e-9)
    found = weigh([seen_of(wrong), seen_of(np.full((64, 2), np.log(0.5)))], labels)
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-12)


# ------------------------------------------------------------------------- steps


@settings(deadline=None, max_examples=30)
@given(scene=scenes, missing=st.sampled_from([0.0, 0.5]), most=st.integers(1, 7))
def test_steps_grow_by_the_next_weightiest_view(
    scene: tuple[int, int, int, int], missing: float, most: int
) -> None:
    seed, m, n, c = scene
    seen, labels = views(*scene, missing), labels_of(seed, n, c)
    weights = weigh(seen, labels)
    buys = steps(seen, labels, most)
    assert [len(each.seen) for each in buys] == list(range(1, len(buys) + 1))
    assert len(buys) <= min(most, m)
    for shorter, longer in pairwise(buys):
        assert longer.seen[: len(shorter.seen)] == shorter.seen
    mine = [next(i for i in range(m) if seen[i] is each) for each in buys[-1].seen]
    ranked = [weights[i] for i in mine]
    assert ranked == sorted(ranked, reverse=True)
    others = [weights[i] for i in range(m) if i not in mine]
    assert not others or max(others) <= min(ranked)
    for each in buys:
        said = weights[mine[: len(each.seen)]]
        np.testing.assert_allclose(each.weights, said / said.sum())
    # No view too many, and none left out that has something to say.
    if len(buys) < most:
        assert sum(others) <= NEGLIGIBLE + 1e-9
    assert sum(ranked[:-1]) < 1.0 - NEGLIGIBLE + 1e-9


def test_a_view_that_says_next_to_nothing_is_left_out() -> None:
    labels = labels_of(0, 100, 2)
    good = np.log(np.where(np.eye(2)[labels] > 0, 0.9, 0.1))
    seen = [seen_of(np.full((100, 2), np.log(0.5))), seen_of(good)]
    (only,) = steps(seen, labels, 16)
    assert only.seen == (seen[1],)
    np.testing.assert_array_equal(only.weights, [1.0])


@pytest.mark.parametrize("most", [1, 16])
def test_a_view_that_does_not_know_all_may_answer_alone(most: int) -> None:
    """Demonstrations leave out those they show, however well they do."""
    labels = labels_of(0, 100, 2)
    good = np.log(np.where(np.eye(2)[labels] > 0, 0.9, 0.1))
    good[:10] = np.nan
    seen = [seen_of(np.full((100, 2), np.log(0.5))), seen_of(good)]
    buys = steps(seen, labels, most)
    assert buys[0].seen == (seen[1],)
    assert np.isnan(buys[0].held_out[:10]).all()
    assert buys[0].accuracy == 1.0
    assert buys[-1].loss < 0.2


# ------------------------------------------------------------------------- gains


def gains(by: float, *, unknown: int = 0, seed: int = 0) -> bool:
    """Whether a pool is found better that is ``by`` nats likelier on average, deviation 1."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(100, np.int64)
    moves = rng.normal(size=100)
    moves = by + (moves - moves.mean()) / moves.std(ddof=1)
    before = np.full((100, 2), -3.0)
    after = before + moves[:, None]
    after[:unknown] = np.nan
    pools = [Pooled((), np.ones(1), 1.0, held_out, 0.0, 0.0) for held_out in (after, before)]
    return pools[0].gain_over(pools[1], labels)


def test_a_gain_is_more_than_its_standard_error() -> None:
    """0.1 with 100 examples of deviation 1."""
    assert gains(0.11)
    assert not gains(0.09)
    assert not gains(-0.5)
    assert not gains(0.0)


def test_a_gain_is_judged_on_what_both_know() -> None:
    assert gains(0.5, unknown=30)
    assert not gains(0.5, unknown=99)
    assert not gains(0.5, unknown=100)
