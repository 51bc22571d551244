"""What one kind of delta does at one module: with tensors at hand, or made when it is reached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from blackbox_delta import tensors as of_tensors
from blackbox_delta.backends.local.terms import Factors, Tensors, Term
from blackbox_delta.types import DeltaBatch

#: The part that scales what goes into a module.
_SCALE_IN = "scale_in"
#: Parts of which a term is given what is beyond one.
_SCALES = (_SCALE_IN, "scale_out")
#: Parts that are whole numbers, which a model's precision may not hold.
_PLACES = ("rows", "columns")
#: Numbers of one module's tensors that are made at a time, 16 MB; a candidate's are made at once.
_MOST_MADE = 2**22


@dataclass(frozen=True)
class AtModule:
    """What one kind of delta has at one module.

    Attributes:
        name: The module's.
        module: Where.
        held: All tensors of that kind, by name to (λ, …).
        names: Those of the module, by what they are there.
        factors: Keeps the singular vectors of modules.
    """

    name: str
    module: torch.nn.Module
    held: of_tensors.Tensors
    names: Mapping[str, str]
    factors: Factors

    @property
    def numbers_each(self) -> int:
        """How many numbers one candidate has here."""
        shapes = (of_tensors.shape(self.held, name) for name in self.names.values())
        return sum(math.prod(shape[1:]) for shape in shapes)

    def select(self, candidates: Sequence[int]) -> AtModule:
        """Some of the candidates."""
        return replace(self, held=of_tensors.selected(self.held, candidates))

    def tensors(self, like: torch.Tensor) -> Tensors:
        """Each (λ, …), as ``like`` is in precision and device; scales as what is beyond one."""
        return {what: _made(what, self.held[name], like) for what, name in self.names.items()}

    def shared(self) -> Tensors:
        """Tensors that are the same for all candidates."""
        if "core" not in self.names:
            return {}
        return self.factors.of(self.module, of_tensors.shape(self.held, self.names["core"])[-1])


def at_modules(model: Any, part: DeltaBatch, factors: Factors) -> Iterator[AtModule]:
    """The modules of a model that a batch of a kind in :data:`.terms.TERMS` acts at.

    Args:
        model: The model.
        part: The batch, which fits it.
        factors: Keeps the singular vectors of its modules.
    """
    by_module: dict[str, dict[str, str]] = {}
    for name in part.tensors:
        module, _, what = name.rpartition(".")
        by_module.setdefault(module, {})[what] = name
    for name, names in by_module.items():
        yield AtModule(name, model.get_submodule(name), part.tensors, names, factors)


class Step(Protocol):
    """What one kind of delta does at one module, with (λ, t, inputs) and (λ, t, outputs)."""

    @property
    def module(self) -> torch.nn.Module:
        """Where."""
        ...

    @property
    def scales_input(self) -> bool:
        """Whether it changes what goes into the module."""
        ...

    @property
    def deferred(self) -> bool:
        """Whether its tensors are made when the module is reached."""
        ...

    @property
    def bytes_each(self) -> int:
        """Memory that one more row under a candidate takes."""
        ...

    def select(self, chunk: slice | list[int]) -> Step:
        """Some of the candidates."""
        ...

    def before(self, x: torch.Tensor) -> torch.Tensor:
        """What becomes of a module's input."""
        ...

    def after(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What becomes of a module's output."""
        ...


@dataclass(frozen=True)
class _WholeStep:
    """With the tensors of all candidates at hand.

    Attributes:
        module: Where.
        term: What.
        tensors: Each (λ, …).
        shared: Tensors that are the same for all candidates.
    """

    module: torch.nn.Module
    term: Term
    tensors: Tensors
    shared: Tensors
    deferred = False

    @property
    def scales_input(self) -> bool:
        return _SCALE_IN in self.tensors

    @property
    def bytes_each(self) -> int:
        return sum(each[0].numel() * each.element_size() for each in self.tensors.values())

    def select(self, chunk: slice | list[int]) -> _WholeStep:
        return replace(self, tensors={name: each[chunk] for name, each in self.tensors.items()})

    def before(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(x, x, self.tensors[_SCALE_IN][:, None].to(x.dtype))

    def after(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.term(x.to(y.dtype), y, _as(y, {**self.shared, **self.tensors}))


@dataclass(frozen=True)
class _DeferredStep:
    """With tensors that are made for the module when it is reached, and let go behind it.

    Attributes:
        own: What it has there.
        term: What.
        like: A tensor of the model's precision and device.
        order: The candidates that are asked about, which may be among them several times.
    """

    own: AtModule
    term: Term
    like: torch.Tensor
    order: tuple[int, ...]
    deferred = True

    @property
    def module(self) -> torch.nn.Module:
        return self.own.module

    @property
    def scales_input(self) -> bool:
        return _SCALE_IN in self.own.names

    @property
    def bytes_each(self) -> int:
        return 0

    def select(self, chunk: slice | list[int]) -> _DeferredStep:
        rows = range(len(self.order))[chunk] if isinstance(chunk, slice) else chunk
        return replace(self, order=tuple(self.order[row] for row in rows))

    def before(self, x: torch.Tensor) -> torch.Tensor:
        scales = self.own.select(self.order).tensors(self.like)[_SCALE_IN]
        return torch.addcmul(x, x, scales[:, None].to(x.dtype))

    def after(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x.to(y.dtype)
        for rows, tensors in self._one_by_one():
            # All rows of a candidate as one: a term treats each token by itself.
            own_x, own_y = (each[rows].flatten(0, 1)[None] for each in (x, y))
            y[rows] = self.term(own_x, own_y, _as(y, tensors)).view(len(rows), *y.shape[1:])
        return y

    def _one_by_one(self) -> Iterator[tuple[list[int], Tensors]]:
        """The rows and tensors of each candidate; some candidates' are made at a time."""
        rows: dict[int, list[int]] = {}
        for row, candidate in enumerate(self.order):
            rows.setdefault(candidate, []).append(row)
        candidates, shared = list(rows), self.own.shared()
        step = max(1, _MOST_MADE // self.own.numbers_each)
        for start in range(0, len(candidates), step):
            some = candidates[start : start + step]
            made = self.own.select(some).tensors(self.like)
            for place, candidate in enumerate(some):
                one = {what: each[place : place + 1] for what, each in made.items()}
                yield rows[candidate], {**shared, **one}


def step_at(own: AtModule, term: Term, like: torch.Tensor, count: int) -> Step:
    """What a term does at a module.

    Args:
        own: The module, and the candidates' tensors there.
        term: What becomes of them.
        like: A tensor of the model's precision and device.
        count: λ.
    """
    if isinstance(own.held, of_tensors.DeferredTensors):
        return _DeferredStep(own, term, like, tuple(range(count)))
    return _WholeStep(own.module, term, own.tensors(like), own.shared())


def _as(y: torch.Tensor, tensors: Tensors) -> Tensors:
    """In the precision of what a module puts out, which in some models is not the embeddings'."""
    return {
        what: each if what in _PLACES or each.dtype == y.dtype else each.to(y.dtype)
        for what, each in tensors.items()
    }


def _made(what: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """A part (λ, …) as its term takes it."""
    if what in _PLACES:
        return torch.from_numpy(value.astype(np.int64)).to(device=like.device)
    own = value - np.float32(1) if what in _SCALES else np.ascontiguousarray(value)
    return torch.from_numpy(own).to(device=like.device, dtype=like.dtype)
