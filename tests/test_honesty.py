"""Labels drawn by lot: no gain may be claimed more often than the verdict's test allows.

The whole way from data to verdict, by the public call alone, for every recipe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from blackbox_delta.api import tune
from blackbox_delta.backends._fake_words import NEUTRAL, TOPICS
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.tasks import FewShotSplit, draw_split, task_from_lists

#: How often, and what else a run is given.
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    "search": (64, {"budget": "16 calls", "population": 4}),
    "auto": (32, {"budget": "5 calls"}),
}
LABELS = ("good", "bad")
WORDS = " ".join((*TOPICS, NEUTRAL)).split()
#: Words that tell the classes apart, where they are to be told apart.
TELLING = (TOPICS[2].split(), TOPICS[3].split())


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


def drawn(seed: int, *, told_apart: bool) -> FewShotSplit:
    """A task of 40 + 80 texts of eight words, labelled by their topic or by lot."""
    rng = np.random.default_rng([seed, told_apart])
    classes = rng.permutation(np.arange(120) % 2)
    texts = []
    for which in classes:
        words = rng.choice(WORDS, 8)
        if told_apart:
            words[:3] = rng.choice(TELLING[which], 3)
        texts.append(" ".join(rng.permutation(words)))
    labels = [LABELS[which] for which in classes]
    task = task_from_lists(texts[:40], labels[:40], test=(texts[40:], labels[40:]))
    return draw_split(task, shots=6, seed=seed)


def most_by_luck(runs: int) -> int:
    """More claims than this come up less than once in a thousand times.

    A gain is claimed where a two-sided test says p < 0.05, so by luck one time in forty at most.
    """
    return int(binom.ppf(0.999, runs, 0.025))


def claims_gain(backend: FakeBackend, recipe: str, split: FewShotSplit) -> bool:
    _, given = RECIPES[recipe]
    result = tune(backend, split, recipe=recipe, seed=split.seed, **given).result
    return bool(result["comparison"]["kind"] == "gain")


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_labels_drawn_by_lot_gains_are_claimed_by_luck_at_most(
    recipe: str, backend: FakeBackend
) -> None:
    runs, _ = RECIPES[recipe]
    splits = (drawn(seed, told_apart=False) for seed in range(runs))
    assert sum(claims_gain(backend, recipe, split) for split in splits) <= most_by_luck(runs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_leak_of_test_labels_would_be_noticed(recipe: str, backend: FakeBackend) -> None:
    """The same with the test part seen in training: so the test above can fail."""
    claims = 0
    for seed in range(8):
        split = drawn(seed, told_apart=False)
        leaky = replace(split, train=split.test, dev=split.test)
        claims += claims_gain(backend, recipe, leaky)
    assert claims > most_by_luck(8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_real_gain_is_claimed(recipe: str, backend: FakeBackend) -> None:
    assert all(claims_gain(backend, recipe, drawn(seed, told_apart=True)) for seed in range(4))
