from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.deltas import DeepPrompt, LoRA, SoftPrompt
from blackbox_delta.geometry import Module
from blackbox_delta.problem.earlier import structure_of
from blackbox_delta.types import Delta

TABLE = FakeBackend().embedding_table
MODULE = Module("up", 6, 4, linear=True, level=1.0, spread=1.0)


def prompt(seed: int) -> SoftPrompt:
    rng = np.random.default_rng(seed)
    return SoftPrompt.build({"soft": 3}, TABLE, tokens=1, init="random", rng=rng)


def deep(seed: int) -> DeepPrompt:
    return DeepPrompt(prompt(seed), [1.0, 2.0])


@pytest.mark.parametrize("make", [prompt, deep])
def test_soft_tokens_mean_the_same_wherever_they_start(make: Callable[[int], Delta]) -> None:
    assert structure_of(make(0)) == structure_of(make(1))


def test_a_lora_means_something_else_from_another_start() -> None:
    assert structure_of(LoRA([MODULE], seed=0)) == structure_of(LoRA([MODULE], seed=0))
    assert structure_of(LoRA([MODULE], seed=0)) != structure_of(LoRA([MODULE], seed=1))
