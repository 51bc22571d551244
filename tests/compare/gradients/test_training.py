from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.compare.contract import Trial
from blackbox_delta.compare.gradients import training
from blackbox_delta.compare.gradients.adaptations import VIRTUAL_TOKENS, Adapted, adapt
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import Questions, put
from blackbox_delta.compare.gradients.scoring import LabelScorer
from blackbox_delta.compare.gradients.training import Plan, epochs_for, steps_of, train

MakeTrial = Callable[..., Trial]
RATES = {"full": 1e-2, "lora": 1e-2, "prefix": 1e-1, "prompt": 1e-1, "bitfit": 1e-1}
WHOLE = {"good": "good day", "bad": "good dull day"}


def ready(
    make_trial: MakeTrial, kind: str, words: Mapping[str, str] | None = None
) -> tuple[Adapted, Questions, LabelScorer]:
    trial = make_trial(words=words)
    loaded = open_causal(trial.model)
    questions = put(trial, loaded, VIRTUAL_TOKENS)
    made = adapt(kind, loaded.model, questions.frame, 0)
    return made, questions, LabelScorer(made.model, made.base, questions.choices, made.shift)


def weights_of(made: Adapted) -> dict[str, torch.Tensor]:
    """Every weight that is not trained, under whatever name it has."""
    trained = {id(value) for value in made.parameters.values()}
    return {
        name: value.detach().clone()
        for name, value in made.model.named_parameters()
        if id(value) not in trained
    }


@pytest.mark.parametrize("kind", RATES)
def test_training_lowers_the_loss_and_moves_nothing_else(make_trial: MakeTrial, kind: str) -> None:
    made, questions, scorer = ready(make_trial, kind)
    frozen = weights_of(made)
    assert len(frozen) >= 19 or kind == "full"
    told: list[float] = []
    losses = train(
        scorer, made.parameters, questions.train, Plan(RATES[kind], 10, 0.0, 0), told.append
    )
    assert losses[-1] < 0.7 * losses[0]
    assert len(losses) == 10
    assert len(told) == steps_of(len(questions.train), 10) == 20
    after = weights_of(made)
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert all(value.grad is None for value in made.model.parameters())


@pytest.mark.parametrize("words", [None, WHOLE])
def test_pieces_of_a_batch_add_up_to_its_gradient(
    make_trial: MakeTrial, words: Mapping[str, str] | None
) -> None:
    made, questions, scorer = ready(make_trial, "bitfit", words)
    part = questions.train
    batch = np.arange(8)
    loss = training._backward(scorer, part, batch)
    pieced = {
        name: value.grad.clone()
        for name, value in made.parameters.items()
        if value.grad is not None
    }
    alone: Any = 0.0
    for value in made.parameters.values():
        value.grad = None
    for index in batch:
        said = scorer.log_proba([part.prompts[index]])[0, int(part.labels[index])]
        alone = alone - said / len(batch)
    alone.backward()
    assert loss == pytest.approx(float(alone.detach()), abs=1e-5)
    assert pieced.keys() == made.parameters.keys()
    for name, value in made.parameters.items():
        assert value.grad is not None
        torch.testing.assert_close(pieced[name], value.grad, atol=1e-5, rtol=1e-4)


@given(shots=st.integers(1, 2000))
def test_more_examples_take_fewer_epochs(shots: int) -> None:
    assert 4 <= epochs_for(shots) <= 10
    assert epochs_for(shots + 1) <= epochs_for(shots)


def test_epochs_at_the_usual_sizes() -> None:
    assert [epochs_for(shots) for shots in (1, 16, 32, 64)] == [10, 10, 5, 4]


@given(steps=st.integers(1, 3000))
def test_the_rate_rises_to_the_top_and_falls_towards_zero(steps: int) -> None:
    shares = [training._share(step, steps) for step in range(steps)]
    top = shares.index(max(shares))
    assert max(shares) == 1.0
    assert top + 1 == max(1, -(-6 * steps // 100))
    assert all(0 < share <= 1 for share in shares)
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[: top + 1] == sorted(shares[: top + 1])


def test_weights_decay_and_norms_do_not(make_trial: MakeTrial) -> None:
    made, questions, scorer = ready(make_trial, "full")
    before = {name: value.detach().clone() for name, value in made.parameters.items()}
    # A rate at which Adam's own steps are nothing beside the decay's.
    train(scorer, made.parameters, questions.train, Plan(1e-6, 1, 1e4, 0), lambda _: None)
    left = {
        name: float(value.detach().norm() / before[name].norm())
        for name, value in made.parameters.items()
    }
    assert all((share < 0.999) == (made.parameters[name].ndim > 1) for name, share in left.items())
