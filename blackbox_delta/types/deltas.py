"""Deltas: what is tuned, and λ candidates of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard, runtime_checkable

from blackbox_delta import tensors as of_tensors
from blackbox_delta.tensors import Tensors, Theta
from blackbox_delta.types.arrays import FloatArray, Json

SOFT_PROMPT, DEEP_PROMPT, PREFIX = "soft-prompt", "deep-prompt", "prefix"
IN_SLOTS = (SOFT_PROMPT, DEEP_PROMPT)
"""Kinds of delta whose tensors stand among the tokens, in the template's slots."""
AT_LAYER = "@"
"""Between a slot and a layer in the name of a deep prompt's tensor."""


@dataclass(frozen=True)
class DeltaBatch:
    """λ candidates of one kind of delta, or of several kinds at the same time, to be applied.

    Attributes:
        kind: What the tensors are, e.g. ``"soft-prompt"``; a backend declares the kinds it takes.
        tensors: Name to float32 array of shape (λ, …); large ones are made each time that they are
            read (see :mod:`blackbox_delta.tensors`). For a soft prompt: slot name to
            (λ, tokens, hidden); for a deep prompt beside these ``"SLOT@LAYER"``, what is added
            there to the states that enter a layer. For what acts inside a model: a module's name,
            a dot and the name of the part, e.g. ``"model.layers.0.mlp.up_proj.lora_A"``.
        token_ids: Tokens that all candidates start from (prefixes); often none.
        beside: λ candidates of other kinds that act after this one, in the same pass.
    """

    kind: str
    tensors: Tensors
    token_ids: tuple[int, ...] = ()
    beside: tuple[DeltaBatch, ...] = ()

    def __len__(self) -> int:
        return of_tensors.shape(self.tensors, next(iter(self.tensors)))[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors' shapes (λ, …), without making any."""
        return {name: of_tensors.shape(self.tensors, name) for name in self.tensors}

    @property
    def parts(self) -> tuple[DeltaBatch, ...]:
        """One batch for each kind, in the order in which they act."""
        alone = replace(self, beside=()) if self.beside else self
        return (alone, *(part for each in self.beside for part in each.parts))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each part."""
        return tuple(part.kind for part in self.parts)

    @property
    def slots(self) -> dict[str, int]:
        """Soft slots that it fills: name to number of soft tokens."""
        return {
            name: shape[1]
            for part in self.parts
            if part.kind in IN_SLOTS
            for name, shape in part.shapes.items()
            if AT_LAYER not in name
        }

    @property
    def structure(self) -> tuple[Hashable, ...]:
        """Kinds, names and shapes: batches that agree in it can be joined."""
        return tuple(
            (
                part.kind,
                part.token_ids,
                *sorted((name, shape[1:]) for name, shape in part.shapes.items()),
            )
            for part in self.parts
        )

    @classmethod
    def joined(cls, batches: Sequence[DeltaBatch]) -> DeltaBatch:
        """The candidates of all batches, which are of the same structure, one after the other."""
        first = batches[0]
        tensors = of_tensors.joined([each.tensors for each in batches])
        beside = zip(*(each.beside for each in batches), strict=True)
        return replace(first, tensors=tensors, beside=tuple(map(cls.joined, beside)))

    def select(self, candidates: Sequence[int]) -> DeltaBatch:
        """The given candidates, in the given order."""
        tensors = of_tensors.selected(self.tensors, candidates)
        beside = tuple(part.select(candidates) for part in self.beside)
        return replace(self, tensors=tensors, beside=beside)

    def digest(self, candidate: int) -> bytes:
        """SHA-256 that tells a candidate from others: of large ones, over what they are made of."""
        return self._hashed(candidate, of_tensors.identity)

    def checksum(self, candidate: int) -> bytes:
        """SHA-256 over one candidate's exact bytes."""
        return self._hashed(candidate, of_tensors.content)

    def _hashed(self, candidate: int, what: Callable[[Tensors, int], Iterator[bytes]]) -> bytes:
        state = hashlib.sha256(self.kind.encode())
        for each in what(self.tensors, candidate):
            state.update(each)
        if self.token_ids:
            state.update(f"tokens{self.token_ids}".encode())
        for part in self.beside:
            state.update(part._hashed(candidate, what))
        return state.digest()


class EmbeddingTable(Protocol):
    """Read access to the input embeddings, for deltas that live among them."""

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        ...

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation over all entries of the table."""
        ...

    @property
    def opening(self) -> list[int]:
        """Tokens that the tokenizer puts before every text, soft slots included; often none."""
        ...

    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), hidden)."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of tokens inside a sequence; special tokens stand for none."""
        ...


class Delta(Protocol):
    """What is tuned: how a flat vector θ of size D becomes tensors that a backend applies."""

    @property
    def kind(self) -> str:
        """The name backends and artifacts know it by."""
        ...

    @property
    def size(self) -> int:
        """D, the length of θ."""
        ...

    @property
    def groups(self) -> tuple[int, ...]:
        """Lengths of θ's consecutive groups, by where they act (layers, say); add up to D."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the tensors that θ holds one after the other, row by row; sizes add up to D."""
        ...

    @property
    def origin(self) -> FloatArray:
        """p0 of shape (D,): the delta at z = 0."""
        ...

    @property
    def scale(self) -> float:
        """The natural standard deviation of an entry of θ - p0."""
        ...

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to tensors with a leading λ."""
        ...

    def config(self) -> Json:
        """What rebuilds it, beside the embedding table; ready for JSON."""
        ...


@runtime_checkable
class DividedDelta(Protocol):
    """A delta whose p0 is zero and whose scale is one, and whose tensors each have a part of θ."""

    @property
    def size(self) -> int:
        """D, the length of θ."""
        ...

    def deferred(self, theta: Theta) -> DeltaBatch:
        """What ``unpack`` makes of θ, its tensors made when they are read."""
        ...


def is_deferred(delta: Delta) -> TypeGuard[DividedDelta]:
    """Whether a delta is so large that θ is never whole in memory."""
    return isinstance(delta, DividedDelta) and delta.size > of_tensors.MOST_WHOLE
