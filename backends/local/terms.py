"""What each kind of delta makes of a module's output, a population at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import scipy.linalg
import torch

from blackbox_delta.backends.local.matrices import matrix_of
from blackbox_delta.types import Vector

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Term: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Tensors], torch.Tensor]
"""From what goes in (λ, t, inputs), what comes out (λ, t, outputs), and tensors (λ, …).

What comes out of a module is nobody else's yet, and is changed in place: at hundreds of modules a
copy each would cost more than most terms do.
"""


def _low_rank(x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    inner = torch.bmm(x, own["lora_A"].transpose(1, 2))
    return y.baddbmm_(inner, own["lora_B"].transpose(1, 2))


def _offset(_x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    return y.add_(own["offset"][:, None])


def _scaled(_x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    # Scales are given as what is beyond one, near which half precision has few numbers.
    return y.addcmul_(y, own["scale_out"][:, None]) if "scale_out" in own else y


def _bottleneck(_x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    inner = torch.nn.functional.gelu(torch.bmm(y, own["down"].transpose(1, 2)))
    return y.baddbmm_(inner, own["up"].transpose(1, 2))


def _core(x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    inner = torch.bmm(x @ own["right"], own["core"].transpose(1, 2))
    return y.add_(inner @ own["left"])


def _matrix(x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    return y.baddbmm_(x, own["weight"].transpose(1, 2))


def _entries(x: torch.Tensor, y: torch.Tensor, own: Tensors) -> torch.Tensor:
    taken = own["columns"][:, None].expand(-1, x.shape[1], -1)
    put = own["rows"][:, None].expand(-1, x.shape[1], -1)
    return y.scatter_add_(2, put, x.gather(2, taken) * own["values"][:, None])


#: What each kind of delta makes of a module's output.
TERMS: dict[str, Term] = {
    "lora": _low_rank,
    "tiny-lora": _core,
    "bitfit": _offset,
    "ia3": _scaled,
    "adapter": _bottleneck,
    "last-layer": _matrix,
    "selective": _matrix,
    "sparse": _entries,
}


class Factors:
    """Singular vectors of a model's matrices, each found once.

    They are right for as long as the weights are not changed, so whoever keeps them knows that
    these are not: an open backend does, and forgets them when it hands its model back.

    Args:
        dtype: The model's precision, which they are given in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._found: dict[tuple[torch.nn.Module, int], Tensors] = {}

    def of(self, module: torch.nn.Module, rank: int) -> Tensors:
        """``left`` (Σ U)^T (r, outputs) and ``right`` V^T (inputs, r) of a linear module.

        Singular vectors are known but for a sign, which is fixed: the largest entry of each column
        of U is positive. So a saved core means the same everywhere.
        """
        key = (module, rank)
        if key not in self._found:
            self._found[key] = _factors(module, rank, self._dtype)
        return self._found[key]

    def clear(self) -> None:
        """Forgets them."""
        self._found.clear()


def _factors(module: torch.nn.Module, rank: int, dtype: torch.dtype) -> Tensors:
    own = matrix_of(module, dtype)
    matrix = own.detach().double().cpu().numpy()
    u_sizes, v = _largest(matrix, rank)
    signs = np.sign(u_sizes[np.abs(u_sizes).argmax(axis=0), np.arange(rank)])
    left, right = torch.from_numpy((u_sizes * signs).T.copy()), torch.from_numpy(v * signs)
    return {
        "left": left.to(device=own.device, dtype=dtype),
        "right": right.to(device=own.device, dtype=dtype),
    }


def _largest(matrix: Vector, rank: int) -> tuple[Vector, Vector]:
    """U Σ (outputs, r) and V (inputs, r) of the r largest singular values, the largest first.

    By way of the smaller of W Wᵀ and Wᵀ W, of which LAPACK finds few eigenvectors several times as
    fast as all singular vectors of W.
    """
    upright = matrix.shape[0] >= matrix.shape[1]
    tall = matrix if upright else matrix.T
    last = tall.shape[1] - 1
    _, found = scipy.linalg.eigh(tall.T @ tall, subset_by_index=(last - rank + 1, last))
    short = found[:, ::-1]
    long = tall @ short
    sizes = np.linalg.norm(long, axis=0)
    if upright:
        return long, short
    return short * sizes, long / np.where(sizes > 0, sizes, 1.0)
