from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from precisions import Half

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from blackbox_delta.backends.local import loading
from blackbox_delta.compare.contract import Measured, Method, Trial
from blackbox_delta.compare.gradients import GRIDS, BBTv2Style, GradientMethod, gradient_method
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import put
from blackbox_delta.compare.gradients.rates import Attempt
from blackbox_delta.errors import BackendError, ConfigError
from blackbox_delta.types import Example

MakeTrial = Callable[..., Trial]


def run(method: Method, trial: Trial) -> Measured:
    return method.run(trial, lambda *_: None)


def without_time(measured: Measured) -> dict[str, Any]:
    known = dataclasses.asdict(measured)
    known.pop("seconds")
    return {key: np.asarray(value).tolist() for key, value in known.items()}


@pytest.mark.parametrize("kind", GRIDS)
def test_the_same_seed_gives_the_same_result(make_trial: MakeTrial, kind: str) -> None:
    method = GradientMethod(kind, (1e-2,))
    first = run(method, make_trial(seed=3, shots=64))
    again = run(method, make_trial(seed=3, shots=64))
    assert without_time(again) == without_time(first)
    other = run(method, make_trial(seed=4, shots=64))
    assert not np.array_equal(other.log_proba, first.log_proba)
    assert first.log_proba.shape == (4, 2)
    assert first.train_log_proba.shape == (10, 2)
    np.testing.assert_allclose(np.exp(first.log_proba).sum(axis=1), 1, atol=1e-5)
    json.dumps(first.details)


def test_a_trained_model_knows_its_training_examples(make_trial: MakeTrial) -> None:
    trial = make_trial()
    measured = run(GradientMethod("lora", (1e-2,)), trial)
    truth = [int(example.label == "good") for example in trial.split.train]
    assert measured.train_log_proba.argmax(axis=1).tolist() == truth


def test_the_better_rate_is_chosen_and_leaves_no_trace_of_the_others(
    make_trial: MakeTrial,
) -> None:
    trial = make_trial(shots=64)
    both = run(GradientMethod("lora", (1e-2, 1e-7)), trial)
    tried = {each["learning_rate"]: each for each in both.details["tried"]}
    rank = {rate: (each["dev_accuracy"], -each["dev_loss"]) for rate, each in tried.items()}
    assert both.details["learning_rate"] == max(rank, key=rank.__getitem__) == 1e-2
    alone = run(GradientMethod("lora", (1e-2,)), trial)
    # Trained from the same start in the same order, whatever else was tried, before or after.
    np.testing.assert_array_equal(both.log_proba, alone.log_proba)
    last = run(GradientMethod("lora", (1e-7, 1e-2)), trial)
    np.testing.assert_array_equal(last.log_proba, alone.log_proba)
    assert both.curve == alone.curve


def test_accuracy_decides_before_loss_and_the_first_among_equals() -> None:
    def attempt(accuracy: float, loss: float) -> Attempt:
        return Attempt(1e-3, (1.0,), accuracy, loss)

    assert attempt(0.8, 2.0).beats(attempt(0.7, 0.1))
    assert attempt(0.8, 0.1).beats(attempt(0.8, 0.2))
    assert not attempt(0.8, 0.1).beats(attempt(0.8, 0.1))
    assert attempt(0.0, 9.0).beats(None)


def test_a_single_rate_does_not_look_at_the_development_examples(make_trial: MakeTrial) -> None:
    trial = make_trial(shots=64)
    method = GradientMethod("bitfit", (1e-2,))
    first = run(method, trial)
    other = tuple(Example("something else", label=each.label) for each in trial.split.dev)
    changed = dataclasses.replace(trial, split=dataclasses.replace(trial.split, dev=other))
    np.testing.assert_array_equal(run(method, changed).log_proba, first.log_proba)
    assert first.details["tried"][0]["dev_accuracy"] is None
    assert first.queries == 3 * 4 * 10


@pytest.mark.parametrize(("kind", "shift"), [("lora", 0), ("prompt", 10)])
def test_what_was_spent_is_counted(make_trial: MakeTrial, kind: str, shift: int) -> None:
    trial = make_trial(shots=64)
    measured = run(GradientMethod(kind, (1e-3, 1e-2)), trial)
    questions = put(trial, open_causal(trial.model), 10)
    epochs, rates, train, dev = 4, 2, 10, 6
    assert measured.queries == rates * (3 * epochs * train + dev)
    assert measured.calls == measured.queries / train
    prompts = 3 * epochs * questions.train.tokens + questions.dev.tokens
    assert measured.tokens == rates * prompts + shift * measured.queries
    assert [point.calls for point in measured.curve] == [3, 6, 9, 12]
    assert measured.details["steps"] == epochs * 2
    assert measured.test_queries == 1


def test_progress_rises_to_one(make_trial: MakeTrial) -> None:
    told: list[tuple[float, str]] = []
    method = GradientMethod("prompt", (1e-3, 1e-2))
    method.run(make_trial(shots=64), lambda share, note: told.append((share, note)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(told) == 2 * 8 + 1
    assert "learning rate 0.01: loss" in told[-2][1]


def test_training_that_diverges_is_an_error_of_ours(make_trial: MakeTrial) -> None:
    with pytest.raises(BackendError, match="smaller learning rates"):
        run(GradientMethod("full", (1e30,)), make_trial(shots=64))
    with pytest.raises(BackendError, match=r"every learning rate that was tried: 1e\+30, 2e\+30"):
        run(GradientMethod("full", (1e30, 2e30)), make_trial(shots=64))


@pytest.mark.parametrize("rates", [(1e-3, 1e30), (1e30, 1e-3)])
def test_a_rate_that_diverges_is_passed_over(
    make_trial: MakeTrial, rates: tuple[float, float]
) -> None:
    measured = run(GradientMethod("full", rates), make_trial(shots=64))
    alone = run(GradientMethod("full", (1e-3,)), make_trial(shots=64))
    np.testing.assert_array_equal(measured.log_proba, alone.log_proba)
    assert measured.details["learning_rate"] == 1e-3
    tried = {each["learning_rate"]: each["diverged"] for each in measured.details["tried"]}
    assert tried == {1e-3: False, 1e30: True}
    json.dumps(measured.details, allow_nan=False)


@pytest.mark.parametrize("method", [GradientMethod("lora", (1e-2,)), BBTv2Style(2)])
def test_the_model_is_opened_where_the_backend_is_and_says_how_precisely(
    method: Method, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def choose(device: str | None) -> Any:
        asked.append(device)
        return torch.device("cpu")

    monkeypatch.setattr(loading, "choose_device", choose)
    measured = run(method, dataclasses.replace(make_trial(shots=64), backend=Half()))
    assert asked == ["cpu"]
    assert measured.dtype == "torch.float32"


@pytest.mark.parametrize("rates", [(), (0.0,), (-1e-3,), (float("nan"),), (float("inf"),)])
def test_rates_must_be_positive_numbers(rates: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="positive numbers"):
        GradientMethod("lora", rates)


def test_unknown_kinds_are_named_with_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'qlora'.*full, lora, prefix, prompt, bitfit"):
        gradient_method("qlora")
    with pytest.raises(ConfigError, match="'qlora'"):
        GradientMethod("qlora", (1e-3,))


def test_settings_tell_methods_apart() -> None:
    methods = [gradient_method(kind) for kind in GRIDS] + [GradientMethod("lora", (1e-3,))]
    settings = [json.dumps(method.settings, sort_keys=True) for method in methods]
    assert len(set(settings)) == len(methods)
