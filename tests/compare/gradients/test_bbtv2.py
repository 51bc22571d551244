from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from blackbox_delta.compare.contract import Measured, Trial
from blackbox_delta.compare.gradients import BBTv2Style, bbtv2
from blackbox_delta.compare.gradients.adaptations import adapt
from blackbox_delta.compare.gradients.bbtv2 import LayerSubspaces
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import put
from blackbox_delta.compare.gradients.scoring import LabelScorer
from blackbox_delta.errors import ConfigError
from blackbox_delta.types import Vector

MakeTrial = Callable[..., Trial]
LAYERS, TOKENS, WIDTH = 5, 10, 40


@pytest.fixture
def spaces() -> LayerSubspaces:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((TOKENS, LAYERS, 2, WIDTH))
    start *= np.array([1, 2, 3, 4, 5])[:, None, None] * np.array([1, 10])[:, None]
    flat = start.reshape(TOKENS, -1).astype(np.float32)
    return LayerSubspaces(flat, LAYERS, rng)


def blocks(prefix: Any) -> Any:
    """(tokens, layers, keys or values, width)."""
    return prefix.reshape(TOKENS, LAYERS, 2, WIDTH)


def test_each_layers_keys_and_values_move_in_their_own_measure(spaces: LayerSubspaces) -> None:
    rng = np.random.default_rng(1)
    start = blocks(spaces.prefix(np.zeros((LAYERS, spaces.dimension))))
    z = rng.normal(0, bbtv2.SIGMA, (200, LAYERS, spaces.dimension))
    moved = np.stack([blocks(spaces.prefix(each)) for each in z]) - start
    expected = bbtv2.ALPHA * start.std(axis=(0, 3))
    np.testing.assert_allclose(moved.std(axis=(0, 1, 4)), expected, rtol=0.1)
    assert spaces.dimension == 100


def test_a_layers_coordinates_move_that_layer_alone(spaces: LayerSubspaces) -> None:
    zero = np.zeros((LAYERS, spaces.dimension))
    z = zero.copy()
    z[3] = 1
    moved = blocks(spaces.prefix(z)) != blocks(spaces.prefix(zero))
    assert moved[:, 3].all()
    assert not np.delete(moved, 3, axis=1).any()


def run(trial: Trial, calls: int) -> Measured:
    return BBTv2Style(calls).run(trial, lambda *_: None)


def test_one_call_is_the_templates_own_words(make_trial: MakeTrial) -> None:
    trial = make_trial()
    loaded = open_causal(trial.model)
    questions = put(trial, loaded, 10)
    made = adapt("prefix", loaded.model, questions.frame, 0)
    expected = LabelScorer(made.model, made.base, questions.choices).read(questions.test)
    measured = run(trial, 1)
    np.testing.assert_allclose(measured.log_proba, expected, atol=1e-6)
    assert (measured.calls, measured.queries) == (1.6, 10 + 6)


def test_the_search_keeps_to_its_budget_and_finds_something(make_trial: MakeTrial) -> None:
    trial = make_trial()
    questions = put(trial, open_causal(trial.model), 10)
    measured = run(trial, 90)
    judged = measured.details["dev_scored"]
    assert measured.queries == 90 * 10 + judged * 6
    assert measured.calls == measured.queries / 10
    assert measured.tokens == 90 * questions.train.tokens + judged * questions.dev.tokens
    losses = [point.loss for point in measured.curve]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]
    assert [point.calls for point in measured.curve] == [1, 21, 41, 61, 81, 90]


def test_the_same_seed_gives_the_same_result(make_trial: MakeTrial) -> None:
    first = run(make_trial(seed=1), 9)
    again = run(make_trial(seed=1), 9)
    assert again.curve == first.curve
    np.testing.assert_array_equal(again.log_proba, first.log_proba)
    assert run(make_trial(seed=2), 9).curve[1:] != first.curve[1:]


def test_layers_take_turns_and_the_development_examples_choose() -> None:
    spaces = LayerSubspaces(np.ones((1, 12), dtype=np.float32), 3, np.random.default_rng(0))
    asked: list[Vector] = []

    def train_loss(z: Vector) -> float:
        asked.append(z.copy())
        return float(((z - 1) ** 2).sum())

    # The development examples like the third incumbent best, and none after it.
    dev_losses = iter([3.0, 2.0, 1.0, *[1.5] * 50])
    search = bbtv2._Search(spaces, train_loss, lambda _: next(dev_losses), 1 + 4 * 20)
    found = search.run(0, lambda *_: None)
    layers = [
        np.flatnonzero((np.ptp(np.stack(asked[first : first + 20]), axis=0) > 0).any(axis=1))
        for first in range(1, 81, 20)
    ]
    assert [each.tolist() for each in layers] == [[0], [1], [2], [0]]
    assert [bool(part.any()) for part in found.z] == [True, True, False]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        BBTv2Style(0)
