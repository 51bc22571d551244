"""λ candidates on their way through an engine: tokens of their own, a prefix, terms inside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.backends.local.deep import DeepOffsets
from blackbox_delta.backends.local.inside import Inside
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.lower_layers import untouched
from blackbox_delta.backends.local.terms import TERMS, Factors
from blackbox_delta.types import AT_LAYER, DEEP_PROMPT, IN_SLOTS, PREFIX, DeltaBatch, IntArray


@dataclass(frozen=True)
class PrefixOffsets:
    """What candidates add to the keys and values of the words that they begin with.

    Attributes:
        token_ids: These words; empty for no prefix.
        keys: Layer to (λ, kv heads, tokens, head).
        values: Likewise.
    """

    token_ids: tuple[int, ...] = ()
    keys: Mapping[int, torch.Tensor] = field(default_factory=dict)
    values: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.token_ids)

    @classmethod
    def of(cls, part: DeltaBatch, like: torch.Tensor) -> PrefixOffsets:
        """From a batch of prefixes."""
        keys: dict[int, torch.Tensor] = {}
        values: dict[int, torch.Tensor] = {}
        for name, value in part.tensors.items():
            layer, _, which = name.partition(".")
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            held = keys if which == "keys" else values
            held[int(layer)] = tensor.to(device=like.device, dtype=like.dtype)
        return cls(part.token_ids, keys, values)

    def on(self, words: PrefixCache, count: int) -> PrefixCache:
        """The prefixes of ``count`` candidates.

        Args:
            words: The words' own keys and values, in one group.
            count: λ.
        """

        def moved(layers: list[torch.Tensor], by: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
            return [
                layer + by[number] if number in by else layer.expand(count, -1, -1, -1)
                for number, layer in enumerate(layers)
            ]

        return PrefixCache(
            words.lengths.expand(count),
            moved(words.keys, self.keys),
            moved(words.values, self.values),
        )

    def select(self, chunk: slice | list[int]) -> PrefixOffsets:
        """Some of the candidates."""
        return PrefixOffsets(
            self.token_ids,
            {layer: value[chunk] for layer, value in self.keys.items()},
            {layer: value[chunk] for layer, value in self.values.items()},
        )


@dataclass(frozen=True)
class Candidates:
    """λ candidates.

    Attributes:
        soft: Their soft tokens; none for the untuned model.
        inside: Their terms beside the model's modules.
        prefix: Their prefixes.
        deep: What they add to their soft tokens' states.
        untouched: Layers, from the first, in which they do not differ.
        own: Whether row i of a forward pass is candidate i's alone, instead of every row being
            evaluated under each of them.
    """

    soft: SoftTokens
    inside: Inside = field(default_factory=Inside)
    prefix: PrefixOffsets = field(default_factory=PrefixOffsets)
    deep: DeepOffsets = field(default_factory=DeepOffsets)
    untouched: int = 0
    own: bool = False

    @classmethod
    def of(
        cls,
        model: Any,
        delta: DeltaBatch | None,
        hidden: int,
        like: torch.Tensor,
        factors: Factors,
    ) -> Candidates:
        """From a delta of kinds that a local model takes, or from none.

        Args:
            model: The model.
            delta: The candidates.
            hidden: Length of an embedding.
            like: A tensor of the model's precision and device.
            factors: Keeps the singular vectors of its modules.
        """
        parts = () if delta is None else delta.parts
        count = 1 if delta is None else len(delta)
        own = next((part for part in parts if part.kind in IN_SLOTS), None)
        prefixes = [part for part in parts if part.kind == PREFIX]
        within = [part for part in parts if part.kind in TERMS]
        soft = SoftTokens.of(_in_slots(own), hidden, like.dtype, like.device, count)
        deep = own is not None and own.kind == DEEP_PROMPT
        return cls(
            soft,
            Inside.of(model, within, like, count, factors),
            PrefixOffsets.of(prefixes[0], like) if prefixes else PrefixOffsets(),
            DeepOffsets.of(model, own, list(soft.first), like) if own and deep else DeepOffsets(),
            _untouched(model, parts) if count > 1 and own is None else 0,
        )

    def __len__(self) -> int:
        return len(self.soft.vectors)

    @property
    def among_tokens(self) -> bool:
        """Whether they differ in soft tokens alone: what precedes these is the same for all."""
        return not self.inside and not self.prefix

    def padding(self, limit: MemoryLimit, copies: int) -> float:
        """Tokens of padding in a row that are cheaper than another pass.

        Args:
            limit: What a pass may take.
            copies: How many candidates the row goes through with.
        """
        return math.inf if self.inside.deferred else limit.padding(copies)

    @property
    def copies(self) -> int:
        """How often each row stands in a forward pass."""
        return 1 if self.own else len(self)

    def of_rows(self, assignment: list[int]) -> Candidates:
        """For a forward pass of as many rows, row i under candidate ``assignment[i]`` alone.

        Without prefixes, whose keys and values are found once for all rows.
        """
        soft = SoftTokens(self.soft.vectors[assignment], self.soft.first, self.soft.lengths)
        return Candidates(
            soft, self.inside.select(assignment), deep=self.deep.select(assignment), own=True
        )

    def select(self, chunk: slice) -> Candidates:
        """Some of them."""
        return replace(
            self,
            soft=replace(self.soft, vectors=self.soft.vectors[chunk]),
            inside=self.inside.select(chunk),
            prefix=self.prefix.select(chunk),
            deep=self.deep.select(chunk),
        )

    @contextmanager
    def acting(self, codes: IntArray, *, by_example: bool = False) -> Iterator[None]:
        """All that they do inside the model, for the time of a forward pass.

        Args:
            codes: (rows, m), which every candidate goes through, or each its own row.
            by_example: Whether the batch is rows × candidates, and not candidates × rows; there is
                no place for terms in it then.
        """
        deep = self.deep.acting(codes, by_example=by_example, own=self.own)
        with self.inside.acting(), deep:
            yield

    def untuned(self) -> Candidates:
        """The model as it is behind the same words, for what all candidates share."""
        nothing = SoftTokens(self.soft.vectors[:1, :0], {}, {})
        return Candidates(nothing, prefix=PrefixOffsets(self.prefix.token_ids))


def _untouched(model: Any, parts: Sequence[DeltaBatch]) -> int:
    """Layers below all that a delta without soft tokens acts at."""
    named = {name for part in parts if part.kind in TERMS for name in part.tensors}
    modules = {name.rpartition(".")[0] for name in named}
    layers = {
        int(name.partition(".")[0])
        for part in parts
        if part.kind == PREFIX
        for name in part.tensors
    }
    return untouched(model, sorted(modules), sorted(layers))


def _in_slots(part: DeltaBatch | None) -> DeltaBatch | None:
    """The tensors that stand among the tokens themselves."""
    if part is None:
        return None
    return replace(part, tensors={k: v for k, v in part.tensors.items() if AT_LAYER not in k})
