"""The matrices of linear modules, as numbers, whatever the modules keep of them.

Quantised layers keep codes and scales, each library in its own way. What they all have in common is
what they do, so a matrix that cannot be read off is what its module makes of the unit vectors.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch

#: Precisions whose numbers are the entries of a matrix by themselves; in smaller ones there are
#: scales beside them.
_PLAIN = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
#: Unit vectors that go through a module at a time.
_AT_ONCE = 1024


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a module multiplies with a matrix; one that only wraps such a module does not."""
    weight = getattr(module, "weight", None)
    if isinstance(module, torch.nn.Embedding):
        return False
    if isinstance(weight, torch.nn.Parameter):
        return weight.ndim == 2
    sizes = (_inputs(module), getattr(module, "out_features", None))
    return all(isinstance(size, int) for size in sizes) and not any(
        is_linear(part) for part in module.children()
    )


def is_coded(module: torch.nn.Module) -> bool:
    """Whether a linear module keeps something else than its matrix, number by number."""
    weight = getattr(module, "weight", None)
    plain = type(weight) is torch.nn.Parameter and weight.dtype in _PLAIN
    # Without its size nobody could ask it.
    return not plain and is_linear(module) and isinstance(_inputs(module), int)


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether a model has a linear module that is coded."""
    return any(is_coded(module) for module in model.modules())


def matrix_of(module: Any, dtype: torch.dtype) -> torch.Tensor:
    """A linear module's matrix (outputs, inputs).

    Args:
        module: The module.
        dtype: The model's precision, in which coded modules are asked; others answer in their own.
    """
    if is_coded(module):
        return _by_unit_vectors(module, dtype)
    weight: torch.Tensor = module.weight
    # GPT-2's Conv1D keeps it the other way round.
    return weight.T if type(module).__name__ == "Conv1D" else weight


def answer_to_nothing(module: Any, dtype: torch.dtype) -> torch.Tensor:
    """What a coded module makes of zeros (1, outputs), which is its bias; in float32."""
    return _asked(module, torch.zeros(1, module.in_features), dtype)


def _inputs(module: torch.nn.Module) -> Any:
    return getattr(module, "in_features", None)


def _by_unit_vectors(module: Any, dtype: torch.dtype) -> torch.Tensor:
    nothing = answer_to_nothing(module, dtype)
    units = (
        torch.nn.functional.one_hot(some, module.in_features)
        for some in torch.split(torch.arange(module.in_features), _AT_ONCE)
    )
    return torch.cat([(_asked(module, some, dtype) - nothing).to(dtype) for some in units]).T


def _asked(module: Any, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    held = next(chain(module.parameters(), module.buffers()), None)
    device = torch.device("cpu") if held is None else held.device
    # What is hooked to a module is none of its matrix.
    answer: torch.Tensor = module.forward(rows.to(device=device, dtype=dtype))
    return answer.float()
