"""Tensors of λ candidates: in memory as they are, or made from z whenever they are read.

θ of 10^8 numbers takes 400 MB a candidate. What is large is therefore kept as what it is made of:
z, the subspace, and where θ holds each tensor. Whoever reads a tensor has it made, and lets go of
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.float32]
_Vector: TypeAlias = NDArray[np.float64]

#: Numbers of a delta, 16 MB a candidate, beyond which its tensors are made when they are read.
MOST_WHOLE = 2**22


@dataclass(frozen=True, eq=False)
class Theta:
    """θ of λ candidates around p0 = 0, of which any part can be made, the same bits each time.

    Attributes:
        z: (λ, d), as the subspace rounds it.
        project: From z and rows of the whole θ to these, (λ, rows).
        recipe: What tells ``project`` from all others.
        rows: The part of the whole θ that it is.
    """

    z: _Vector
    project: Callable[[_Vector, slice], _Array]
    recipe: bytes
    rows: slice

    def __len__(self) -> int:
        return len(self.z)

    def within(self, rows: slice) -> Theta:
        """Some of its rows."""
        start = self.rows.start
        return replace(self, rows=slice(start + rows.start, start + rows.stop))

    def select(self, candidates: Sequence[int]) -> Theta:
        """Some of the candidates."""
        return replace(self, z=self.z[list(candidates)])

    def made(self) -> _Array:
        """(λ, rows)."""
        return self.project(self.z, self.rows)

    def digest(self, candidate: int) -> bytes:
        """SHA-256 over all that one candidate's rows are made of."""
        state = hashlib.sha256(f"{self.rows.start} {self.rows.stop} ".encode())
        state.update(self.recipe)
        state.update(self.z[candidate].astype("<f8").tobytes())
        return state.digest()


class Piece(Protocol):
    """One tensor, and where θ holds it."""

    @property
    def rows(self) -> slice:
        """Its part of θ."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the leading λ."""
        ...

    def tensor(self, theta: _Array) -> _Array:
        """(λ, …) from its part of θ, (λ, rows)."""
        ...

    def digest(self) -> bytes:
        """Tells it from pieces that make other tensors of the same θ."""
        ...


@dataclass(frozen=True, eq=False)
class Layout:
    """All tensors of a delta, by name."""

    pieces: Mapping[str, Piece]

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over what turns θ into tensors."""
        state = hashlib.sha256()
        for name, piece in sorted(self.pieces.items()):
            state.update(f"{name}{piece.shape}{piece.rows.start} {piece.rows.stop} ".encode())
            state.update(piece.digest())
        return state.digest()


@dataclass(frozen=True, eq=False)
class DeferredTensors(Mapping[str, _Array]):
    """Name to array of shape (λ, …), made anew whenever it is read.

    Attributes:
        runs: Consecutive candidates and how their tensors lie in θ: one or more runs, whose tensors
            have the same names and shapes.
    """

    runs: tuple[tuple[Theta, Layout], ...]

    def __getitem__(self, name: str) -> _Array:
        made = [_tensor(theta, layout.pieces[name]) for theta, layout in self.runs]
        return made[0] if len(made) == 1 else np.concatenate(made)

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs[0][1].pieces)

    def __len__(self) -> int:
        return len(self.runs[0][1].pieces)

    def __contains__(self, name: object) -> bool:
        return name in self.runs[0][1].pieces

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape; makes none."""
        count = sum(len(theta) for theta, _ in self.runs)
        return (count, *self.runs[0][1].pieces[name].shape)

    def select(self, candidates: Sequence[int]) -> DeferredTensors:
        """The given candidates, in the given order."""
        places = [
            (run, place) for run, (theta, _) in enumerate(self.runs) for place in range(len(theta))
        ]
        runs = groupby((places[candidate] for candidate in candidates), lambda place: place[0])
        return DeferredTensors(
            tuple(
                (self.runs[run][0].select([place for _, place in own]), self.runs[run][1])
                for run, own in runs
            )
        )

    def recipe(self, candidate: int) -> bytes:
        """SHA-256 over what a candidate's tensors are made of: the same for the same tensors alone.

        The same tensors may be made of something else.
        """
        [(theta, layout)] = self.select([candidate]).runs
        return hashlib.sha256(b"made of" + theta.digest(0) + layout.digest).digest()


def _tensor(theta: Theta, piece: Piece) -> _Array:
    return piece.tensor(theta.within(piece.rows).made())


# ------------------------------------------------------- of either kind, by name to (λ, …)

Tensors: TypeAlias = Mapping[str, _Array]


def shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    """An array's shape; makes none."""
    if isinstance(tensors, DeferredTensors):
        return tensors.shape(name)
    return tensors[name].shape


def selected(tensors: Tensors, candidates: Sequence[int]) -> Tensors:
    """The given candidates, in the given order."""
    if isinstance(tensors, DeferredTensors):
        return tensors.select(candidates)
    rows = list(candidates)
    return {name: value[rows] for name, value in tensors.items()}


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The candidates of all parts, which agree in names and shapes, one after the other."""
    deferred = [part for part in parts if isinstance(part, DeferredTensors)]
    if len(deferred) == len(parts):
        return DeferredTensors(tuple(run for part in deferred for run in part.runs))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def content(tensors: Tensors, candidate: int) -> Iterator[bytes]:
    """One candidate's names, shapes and exact bytes, one tensor at a time."""
    deferred = tensors.select([candidate]) if isinstance(tensors, DeferredTensors) else None
    for name in sorted(tensors):
        value = tensors[name][candidate] if deferred is None else deferred[name][0]
        yield f"{name}{value.shape}".encode()
        yield np.ascontiguousarray(value, dtype="<f4").tobytes()


def identity(tensors: Tensors, candidate: int) -> Iterator[bytes]:
    """What tells one candidate's tensors from all others; makes none."""
    if isinstance(tensors, DeferredTensors):
        yield tensors.recipe(candidate)
    else:
        yield from content(tensors, candidate)
