"""Comparisons of views against a regression on dummy variables, and against planted differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import seen_of

from blackbox_delta.auto.asking import Seen
from blackbox_delta.auto.comparing import comparable_losses, ranked
from blackbox_delta.types import IntArray, Vector

LABELS = np.arange(24) % 3


def views_with(losses: Vector) -> list[Seen]:
    """Views (m, n) whose held-out losses are these; NaN where they know nothing."""
    seen = []
    for row in losses:
        held_out = np.where(np.isnan(row), np.nan, -9.0)[:, None] * np.ones(3)
        held_out[np.arange(len(row)), LABELS[: len(row)]] = -row
        seen.append(seen_of(held_out))
    return seen


def regressed(losses: Vector) -> Vector:
    """The views' coefficients in a regression on a dummy variable a view and one an example."""
    m, n = losses.shape
    rows, values = [], []
    for v, i in zip(*np.nonzero(np.isfinite(losses)), strict=True):
        rows.append(np.concatenate([np.eye(m)[v], np.eye(n)[i]]))
        values.append(losses[v, i])
    found = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    asked = np.isfinite(losses).any(axis=0)
    result: Vector = found[:m] + found[m:][asked].mean()
    return result


def layout(seed: int, views: int, n: int, missing: float) -> Vector:
    """Losses of views, the first of which knows all examples."""
    rng = np.random.default_rng(seed)
    losses = rng.gamma(1.0, 1.0, (views, n))
    unknown = rng.random((views, n)) < missing
    unknown[0] = False
    unknown[np.arange(views), rng.integers(n, size=views)] = False
    losses[unknown] = np.nan
    return losses


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    views=st.integers(1, 6),
    n=st.integers(2, 24),
    missing=st.sampled_from([0.0, 0.3, 0.7]),
)
def test_it_is_a_regression_on_views_and_examples(
    seed: int, views: int, n: int, missing: float
) -> None:
    losses = layout(seed, views, n, missing)
    found = comparable_losses(views_with(losses), LABELS[:n])
    np.testing.assert_allclose(found, regressed(losses), atol=1e-8)


def test_where_all_know_the_same_it_is_their_mean() -> None:
    losses = layout(3, 4, 24, 0.0)
    losses[:, 5:9] = np.nan  # which none of them knows
    found = comparable_losses(views_with(losses), LABELS)
    np.testing.assert_allclose(found, np.nanmean(losses, axis=1))


@pytest.mark.parametrize("hard", [range(12), range(12, 24)])
def test_easy_examples_flatter_nobody(hard: IntArray) -> None:
    """Whoever is judged on the easy half has lower losses, and is none the better for it."""
    quality = np.array([0.3, 0.0, 0.1])
    losses = quality[:, None] + np.where(np.isin(np.arange(24), hard), 2.0, 0.5)
    losses[1, :12], losses[2, 12:] = np.nan, np.nan
    seen = views_with(losses)
    np.testing.assert_allclose(comparable_losses(seen, LABELS), quality + 1.25, atol=1e-9)
    assert ranked(seen, LABELS) == [seen[1], seen[2], seen[0]]


def test_views_of_which_nothing_tells_the_better_keep_their_order() -> None:
    losses = np.array([[1.0, np.nan], [np.nan, 5.0]])
    seen = views_with(losses)
    np.testing.assert_allclose(comparable_losses(seen, LABELS[:2]), [3.0, 3.0], atol=1e-9)
    assert ranked(seen, LABELS[:2]) == seen
    assert ranked([], LABELS) == []
