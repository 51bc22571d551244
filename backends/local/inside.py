"""What candidates do inside the model: terms beside its modules, a whole population in one pass.

The rows of a batch are grouped by candidate, so a module's input (λ·R, m, inputs) is (λ, R·m,
inputs) to a term, and one batched product gives each candidate its own low-rank term. The
module's own matrix product stays the one that all candidates share; no weight is ever copied or
changed, for the terms are hooks that are there for the time of one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch

from blackbox_delta.types import DeltaBatch

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
    return y.mul_(own["scale_out"][:, None]) if "scale_out" in own else y


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
#: The part that scales what goes into a module.
_SCALE_IN = "scale_in"
#: Parts that are whole numbers, which a model's precision may not hold.
_PLACES = ("rows", "columns")


@dataclass(frozen=True)
class _Step:
    """What one kind of delta does at one module.

    Attributes:
        module: Where.
        term: What.
        tensors: Each (λ, …).
        shared: Tensors that are the same for all candidates.
    """

    module: torch.nn.Module
    term: Term
    tensors: Tensors
    shared: Tensors = field(default_factory=dict)

    def select(self, chunk: slice | list[int]) -> _Step:
        return replace(self, tensors={name: each[chunk] for name, each in self.tensors.items()})

    def after(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What becomes of a module's output."""
        return self.term(x, y, {**self.shared, **self.tensors})


@dataclass(frozen=True)
class Inside:
    """The terms of λ candidates.

    Attributes:
        steps: In the order in which they act at a module; none for the untuned model.
        count: λ.
    """

    steps: tuple[_Step, ...] = ()
    count: int = 1

    @classmethod
    def of(cls, model: Any, parts: Sequence[DeltaBatch], like: torch.Tensor, count: int) -> Inside:
        """From the parts of a delta that act at modules.

        Args:
            model: Whose modules they name.
            parts: Batches of the kinds in :data:`TERMS`, which fit it.
            like: A tensor of the model's precision and device.
            count: λ.

        """
        steps = []
        for part in parts:
            for _, module, own, shared in at_modules(model, part, like):
                steps.append(_Step(module, TERMS[part.kind], own, shared))
        return cls(tuple(steps), count)

    def __bool__(self) -> bool:
        return bool(self.steps)

    def touches(self, modules: Set[torch.nn.Module]) -> bool:
        """Whether there is a term at any of these modules."""
        return any(step.module in modules for step in self.steps)

    @property
    def bytes_each(self) -> int:
        """Memory that one candidate's tensors take."""
        tensors = (tensor for step in self.steps for tensor in step.tensors.values())
        return sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)

    def select(self, chunk: slice | list[int]) -> Inside:
        """Some of the candidates."""
        count = len(range(self.count)[chunk]) if isinstance(chunk, slice) else len(chunk)
        return Inside(tuple(step.select(chunk) for step in self.steps), count)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """For the time of a forward pass whose rows are grouped by candidate."""
        by_module: dict[torch.nn.Module, list[_Step]] = {}
        for step in self.steps:
            by_module.setdefault(step.module, []).append(step)
        handles = []
        try:
            for module, steps in by_module.items():
                if any(_SCALE_IN in step.tensors for step in steps):
                    handles.append(module.register_forward_pre_hook(self._before(steps)))
                handles.append(module.register_forward_hook(self._after(steps)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, steps: Sequence[_Step]) -> Callable[[Any, Any], Any]:
        def scale(_module: torch.nn.Module, inputs: Any) -> Any:
            x, *others = inputs
            grouped = self._grouped(x)
            for step in steps:
                if _SCALE_IN in step.tensors:
                    grouped = grouped * step.tensors[_SCALE_IN][:, None]
            return (grouped.view(x.shape), *others)

        return scale

    def _after(self, steps: Sequence[_Step]) -> Callable[[Any, Any, Any], Any]:
        def add(_module: torch.nn.Module, inputs: Any, y: Any) -> Any:
            x, changed = self._grouped(inputs[0]), self._grouped(y)
            for step in steps:
                changed = step.after(x, changed)
            return changed.view(y.shape)

        return add

    def _grouped(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(self.count, -1, rows.shape[-1])


def at_modules(
    model: Any, part: DeltaBatch, like: torch.Tensor
) -> Iterator[tuple[str, torch.nn.Module, Tensors, Tensors]]:
    """What one kind of delta acts at: name, module, tensors (λ, …), tensors of all candidates.

    Args:
        model: Whose modules the part names.
        part: A batch of a kind in :data:`TERMS`.
        like: A tensor of the precision and device that the candidates' tensors take.
    """
    by_module: dict[str, dict[str, Any]] = {}
    for name, value in part.tensors.items():
        module, _, what = name.rpartition(".")
        by_module.setdefault(module, {})[what] = value
    for name, tensors in by_module.items():
        module = model.get_submodule(name)
        own = {
            key: _places(value, like) if key in _PLACES else _tensor(value, like)
            for key, value in tensors.items()
        }
        shared = _factors(module, own["core"].shape[-1]) if "core" in own else {}
        yield name, module, own, shared


_FACTORS: WeakKeyDictionary[torch.nn.Module, dict[int, Tensors]] = WeakKeyDictionary()


def _factors(module: torch.nn.Module, rank: int) -> Tensors:
    """``left`` (Σ U)^T (r, outputs) and ``right`` V^T (inputs, r); found once for a module.

    Singular vectors are known but for a sign, which is fixed: the largest entry of each column of
    U is positive. So a saved core means the same everywhere.
    """
    kept = _FACTORS.setdefault(module, {})
    if rank not in kept:
        weight: Any = module.weight
        matrix = oriented(module).double()
        u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
        u, sizes, v = u[:, :rank], sizes[:rank], v[:rank]
        signs = torch.sign(torch.gather(u, 0, u.abs().argmax(dim=0, keepdim=True)))
        left = (u * signs * sizes).T.contiguous().to(weight.dtype)
        kept[rank] = {"left": left, "right": (v * signs.T).T.contiguous().to(weight.dtype)}
    return kept[rank]


def oriented(module: Any) -> torch.Tensor:
    """A linear module's matrix (outputs, inputs); GPT-2's Conv1D keeps it the other way round."""
    weight: torch.Tensor = module.weight
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value)).to(device=like.device, dtype=like.dtype)


def _places(value: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(value.astype(np.int64)).to(device=like.device)
