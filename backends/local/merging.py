"""Deltas inside a model, merged into its weights for good.

At a linear module y = W x + b every term but an adapter's is linear as well, so a candidate's terms
become one W and one b. What scales a module's input acts on it before all other terms do, whatever
their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from blackbox_delta.backends.local.matrices import is_quantized
from blackbox_delta.backends.local.steps import AtModule, at_modules
from blackbox_delta.backends.local.terms import Factors, Tensors
from blackbox_delta.errors import ExportError
from blackbox_delta.types import MERGEABLE, DeltaBatch


def merged(model: Any, parts: Sequence[DeltaBatch], factors: Factors) -> dict[str, torch.Tensor]:
    """The parameters that a merged delta changes, by name; the model's own stay as they are.

    Sums are taken in float32 and rounded to the model's precision once.

    Args:
        model: Whose modules the delta names.
        parts: One candidate of each kind, in the order in which they act.
        factors: Keeps the singular vectors of its modules.

    Raises:
        ExportError: A kind, or what it acts on, has no weights that it could be merged into.
    """
    for part in parts:
        if part.kind not in MERGEABLE:
            raise ExportError(
                f"no weights of a model can say what its {part.kind} does; these kinds can be "
                f"merged, also several together: {', '.join(sorted(MERGEABLE))}"
            )
    # One that is unpacked by now is still packed again, or said to be packed, when it is saved.
    if is_quantized(model) or getattr(model.config, "quantization_config", None) is not None:
        raise ExportError(
            "the model is quantised: its weights have no room for a delta's small changes. Merge "
            "the delta into the model that it was quantised from, or export it by itself"
        )
    by_name: dict[str, list[AtModule]] = {}
    for part in parts:
        for own in at_modules(model, part, factors):
            by_name.setdefault(own.name, []).append(own)
    _check_alone(model, by_name)
    return {key: value for terms in by_name.values() for key, value in _changed_by(terms).items()}


def _changed_by(terms: Sequence[AtModule]) -> dict[str, torch.Tensor]:
    """The new parameters of a module, from what acts at it."""
    layer = _Layer(terms[0].name, terms[0].module)
    for own in terms:
        factors = {key: value.float().cpu() for key, value in own.shared().items()}
        tensors = own.tensors(torch.empty(0))
        layer.take({**factors, **{key: value[0] for key, value in tensors.items()}})
    return layer.changed()


class _Layer:
    """One module in the making, as y = W (s ⊙ x) + b in float32.

    Args:
        name: Its path in the model.
        module: The module, which is only read.

    Raises:
        ExportError: It is neither a plain linear layer nor a norm with an offset.
    """

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        if not _is_plain(module):
            raise ExportError(
                f"{name} is a {type(module).__name__}, into which nothing can be merged; leave it "
                "out of delta.targets"
            )
        self._name = name
        self._weight: torch.Tensor = module.weight  # type: ignore[assignment]
        self._own_bias: torch.Tensor | None = module.bias  # type: ignore[assignment]
        self._linear = not isinstance(module, torch.nn.LayerNorm)
        # GPT-2's Conv1D keeps its matrix the other way round.
        self._turned = isinstance(module, Conv1D)
        matrix = self._weight.detach().float().cpu()
        self._matrix = matrix.T if self._turned else matrix
        bias = self._own_bias
        self._bias = torch.zeros(()) if bias is None else bias.detach().float().cpu()
        self._scale_in = torch.ones(())

    def take(self, own: Tensors) -> None:
        """Adds what one kind of delta does here, after those that came before."""
        if "offset" in own:
            self._bias = self._bias + own["offset"]
            return
        if not self._linear:
            raise ExportError(f"{self._name} is a norm, into which offsets alone can be merged")
        if own.keys() <= {"scale_in", "scale_out"}:
            out = own.get("scale_out", torch.zeros(()))
            self._scale_in = self._scale_in * (1 + own.get("scale_in", torch.zeros(())))
            self._matrix = self._matrix * (1 + out[..., None])
            self._bias = self._bias * (1 + out)
        elif "lora_A" in own:
            self._matrix = self._matrix + own["lora_B"] @ own["lora_A"]
        elif "core" in own:
            self._matrix = self._matrix + own["left"].T @ own["core"] @ own["right"].T
        elif "values" in own:
            places = (own["rows"], own["columns"])
            self._matrix = self._matrix.index_put(places, own["values"], accumulate=True)
        else:
            self._matrix = self._matrix + own["weight"]

    def changed(self) -> dict[str, torch.Tensor]:
        """The module's new parameters, in their own precision and on their own device."""
        matrix = self._matrix * self._scale_in
        weight = (matrix.T if self._turned else matrix).contiguous().to(self._weight)
        found = {f"{self._name}.weight": weight}
        if self._own_bias is not None:
            found[f"{self._name}.bias"] = self._bias.to(self._own_bias)
        elif self._bias.any():
            raise ExportError(
                f"{self._name} has no bias that an offset could be merged into; tune with "
                "--set delta.targets=… those that have one, or with another delta, such as lora"
            )
        return found


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether it does with its weights what its kind does, also where a model has its own."""
    if type(module) in (torch.nn.Linear, Conv1D, torch.nn.LayerNorm):
        return True
    if not isinstance(module, torch.nn.Linear):
        return False
    probe = torch.linspace(-1, 1, module.in_features).to(module.weight)[None]
    said = module(probe), torch.nn.functional.linear(probe, module.weight, module.bias)
    return bool(torch.allclose(*said, rtol=1e-3, atol=1e-3))


def _check_alone(model: Any, layers: Mapping[str, Sequence[AtModule]]) -> None:
    """Makes sure that no other module uses a parameter that is to change."""
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    for shared in names.values():
        owners = {name.rpartition(".")[0] for name in shared}
        if len(owners) > 1 and owners & layers.keys():
            raise ExportError(
                f"{' and '.join(sorted(owners))} share their weights, so that a delta at one of "
                "them cannot be merged"
            )
