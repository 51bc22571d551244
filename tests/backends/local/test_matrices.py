"""What a linear module's matrix is, however the module keeps it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coded_models import Coded
from transformers.pytorch_utils import Conv1D

from blackbox_delta.backends.local.matrices import (
    is_coded,
    is_linear,
    is_quantized,
    matrix_of,
)


def linear(inputs: int, outputs: int) -> torch.nn.Linear:
    module = torch.nn.Linear(inputs, outputs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.weight.copy_(torch.randn(outputs, inputs, generator=generator))
        module.bias.copy_(torch.randn(outputs, generator=generator))
    return module


class Wrapper(torch.nn.Module):
    """Does something beside a linear module, and shows the module's sizes as its own."""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner, self.in_features, self.out_features = inner, 4, 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 1  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (torch.nn.Linear(4, 3), True),
        (Conv1D(3, 4), True),
        (Coded(linear(4, 3)), True),
        (Wrapper(linear(4, 3)), False),
        (torch.nn.Embedding(4, 3), False),
        (torch.nn.LayerNorm(4), False),
        (torch.nn.GELU(), False),
        (torch.nn.Bilinear(4, 4, 3), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_which_modules_are_linear(module: torch.nn.Module, expected: bool) -> None:
    assert is_linear(module) is expected


def test_models_with_other_forms_are_quantised() -> None:
    plain = torch.nn.Sequential(linear(4, 3), torch.nn.LayerNorm(3), Conv1D(3, 3))
    assert not is_quantized(plain)
    assert is_quantized(torch.nn.Sequential(*plain, Coded(linear(3, 3))))
    eight = torch.nn.Linear(4, 3)
    eight.weight = torch.nn.Parameter(eight.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert is_coded(eight)  # there are scales beside it
    del eight.in_features
    assert not is_coded(eight)  # nobody could ask it


@pytest.mark.parametrize("make", [linear, lambda inputs, outputs: Conv1D(outputs, inputs)])
def test_plain_modules_tell_their_own(make: Any) -> None:
    module = make(5, 3)
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = x @ matrix_of(module, torch.float32).T + module.bias
        torch.testing.assert_close(made, module(x))


@pytest.mark.parametrize("inputs", [7, 2500])
@torch.no_grad()
def test_others_are_asked_what_they_do(inputs: int) -> None:
    module = Coded(linear(inputs, 3))
    module.register_forward_hook(lambda _module, _inputs, y: y * 100)  # none of its matrix
    found = matrix_of(module, torch.float32)
    np.testing.assert_allclose(found.numpy(), module.dequantized().weight.numpy(), atol=1e-5)
