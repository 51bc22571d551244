from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.compare.contract import Trial
from blackbox_delta.compare.gradients.adaptations import VIRTUAL_TOKENS, Adapted, adapt
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import Questions, put
from blackbox_delta.compare.gradients.scoring import LabelScorer

MakeTrial = Callable[..., Trial]
KINDS = ("full", "lora", "prefix", "prompt", "bitfit")

# The tiny Llama: hidden size, MLP size, layers, keys' and values' width.
H, M, L, KV = 32, 48, 2, 16
LINEARS = ((H, H), (H, KV), (H, KV), (H, H), (H, M), (H, M), (M, H))  # q k v o gate up down


@pytest.fixture
def adapted(make_trial: MakeTrial) -> Callable[..., tuple[Adapted, Questions]]:
    def make(kind: str, seed: int = 0) -> tuple[Adapted, Questions]:
        trial = make_trial()
        loaded = open_causal(trial.model)
        questions = put(trial, loaded, VIRTUAL_TOKENS)
        return adapt(kind, loaded.model, questions.frame, seed), questions

    return make


Make = Callable[..., tuple[Adapted, Questions]]


def answers(made: Adapted, questions: Questions, words: tuple[int, ...] = ()) -> Any:
    scorer = LabelScorer(made.model, made.base, questions.choices, made.shift)
    return scorer.read([words + prompt for prompt in questions.test])


def test_as_many_numbers_are_trained_as_the_papers_say(adapted: Make) -> None:
    vocabulary = adapted("full")[0].base.config.vocab_size
    norms = (2 * L + 1) * H
    weights = L * sum(a * b for a, b in LINEARS)
    closed = {
        "full": vocabulary * H + weights + norms,  # the head is the embedding table
        "lora": L * sum(8 * (a + b) for a, b in LINEARS),
        "prefix": VIRTUAL_TOKENS * L * 2 * KV,
        "prompt": VIRTUAL_TOKENS * H,
        "bitfit": L * sum(b for _, b in LINEARS) + norms,
    }
    assert {kind: adapted(kind)[0].trainable for kind in KINDS} == closed


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_trained_asks_for_gradients(adapted: Make, kind: str) -> None:
    made, _ = adapted(kind)
    asking = {id(each) for each in made.model.parameters() if each.requires_grad}
    assert asking == {id(each) for each in made.parameters.values()}


@pytest.mark.parametrize("kind", ["lora", "bitfit"])
def test_nothing_changes_before_training(adapted: Make, kind: str) -> None:
    made, questions = adapted(kind)
    untrained, _ = adapted("full")
    np.testing.assert_allclose(answers(made, questions), answers(untrained, questions), atol=1e-5)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_start_as_the_templates_words_in_front(adapted: Make, kind: str) -> None:
    made, questions = adapted(kind)
    untrained, _ = adapted("full")
    words = (questions.frame * VIRTUAL_TOKENS)[:VIRTUAL_TOKENS]
    expected = answers(untrained, questions, words)
    np.testing.assert_allclose(answers(made, questions), expected, atol=1e-4)
    assert np.abs(expected - answers(untrained, questions)).max() > 1e-2


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_the_artifact_is_as_large_as_the_file_that_peft_saves(
    adapted: Make, kind: str, tmp_path: Path
) -> None:
    made, _ = adapted(kind)
    made.model.save_pretrained(tmp_path)
    assert made.artifact_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size


def test_offsets_and_whole_models_take_four_bytes_a_number(adapted: Make) -> None:
    for kind in ("bitfit", "full"):
        made, _ = adapted(kind)
        assert made.artifact_bytes == 4 * made.trainable


def test_what_is_drawn_follows_from_the_seed_alone(adapted: Make) -> None:
    def drawn(seed: int) -> torch.Tensor:
        parameters = adapted("lora", seed)[0].parameters
        return torch.cat([value.detach().flatten() for value in parameters.values()])

    torch.manual_seed(1)
    first = drawn(5)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "torch's own generator was moved"
    assert torch.equal(drawn(5), first)
    assert not torch.equal(drawn(6), first)


class Offsets(torch.nn.Module):
    """A model of one layer and one norm, which may have offsets of their own."""

    def __init__(self, linear: bool, norm: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4, bias=linear)
        self.norm = torch.nn.LayerNorm(4, bias=norm)

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.norm(self.linear(x))
        return value


@settings(max_examples=4)
@given(linear=st.booleans(), norm=st.booleans())
def test_an_offset_is_added_once_whether_it_was_there_or_not(linear: bool, norm: bool) -> None:
    model = Offsets(linear, norm).requires_grad_(False)
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    before = model(x)
    made = adapt("bitfit", model, (), 0)
    torch.testing.assert_close(model(x), before)
    assert sorted(value.numel() for value in made.parameters.values()) == [4, 4]
    with torch.no_grad():
        next(value for name, value in made.parameters.items() if name.startswith("norm")).add_(1)
    torch.testing.assert_close(model(x), before + 1)
