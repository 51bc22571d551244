"""Quantised models that are known number by number."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch


class Coded(torch.nn.Module):
    """A linear module with whole numbers of eight bits, and a scale for each output.

    There is no ``weight``, as in most libraries that quantise; what it computes is what
    :meth:`dequantized` does.
    """

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        weight = plain.weight.detach()
        scales = weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scales", scales)
        self.register_buffer("codes", (weight / scales).round().to(torch.int8))
        self.bias = None if plain.bias is None else torch.nn.Parameter(plain.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.codes * self.scales, self.bias)

    def dequantized(self) -> torch.nn.Linear:
        """The same as a plain module."""
        plain = torch.nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(self.codes * self.scales)
            if self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain


class Mixing(Coded):
    """Rounds what goes in to steps that all texts of a batch have in common."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = x.abs().max() / 7
        return super().forward((x / step).round() * step)


class Packed(Coded):
    """Cannot be used before the whole model was called, which unpacks it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("these codes are packed")


def packed(tiny: Any) -> Any:
    """Like ``quantized``, but unpacked into plain modules when it is called for the first time."""
    model = quantized(tiny, Packed).model

    def unpack(model: Any, _given: Any) -> None:
        handle.remove()
        for name, module in list(model.named_modules()):
            if isinstance(module, Packed):
                _put(model, name, module.dequantized())

    handle = model.register_forward_pre_hook(unpack)
    return replace(tiny, model=model)


def quantized(tiny: Any, kind: type[Coded] = Coded) -> Any:
    """A tiny model with all its linear modules but the head quantised."""
    model = copy.deepcopy(tiny.model)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not head:
            _put(model, name, kind(module))
    return replace(tiny, model=model)


def dequantized(tiny: Any) -> Any:
    """The same model with plain modules."""
    model = copy.deepcopy(tiny.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Coded):
            _put(model, name, module.dequantized())
    return replace(tiny, model=model)


def _put(model: Any, name: str, module: torch.nn.Module) -> None:
    where, _, last = name.rpartition(".")
    setattr(model.get_submodule(where), last, module)
