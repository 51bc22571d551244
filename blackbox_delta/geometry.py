"""What stands inside a model: the modules that a delta can act on, and how large things are there.

Deltas take their shapes and their natural scales from it. A backend that lets deltas into its
model tells it; the others have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Module:
    """A module that turns one token's vector into another, whatever the other tokens are.

    Attributes:
        name: Its path in the model.
        inputs: Length of a vector that goes in.
        outputs: Length of a vector that comes out.
        linear: Whether it multiplies with a matrix; a norm does not.
        level: Root mean square of what goes in, for a typical one of a few tokens.
        spread: Deviation of a typical number that comes out.
    """

    name: str
    inputs: int
    outputs: int
    linear: bool
    level: float
    spread: float


class Salient(NamedTuple):
    """The entries of a module's matrix that move it most, the first the most important.

    Attributes:
        rows: Which output each belongs to.
        columns: Which input.
        levels: Root mean square of that input, on a few tokens.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Geometry:
    """The modules of a model and the shapes of what its attention keeps.

    Attributes:
        modules: In the order in which they act; without the head that gives the logits.
        layers: How many layers keep keys and values.
        kv_heads: Heads of keys and values in each.
        head_size: Length of a key or a value.
        key_spread: Deviation of a typical number in the keys, one for each layer.
        value_spread: Of the values, likewise.
        context: The most tokens that the model reads.
        layer_spread: Root mean square of a typical token's state as it enters each layer, the
            first one included; empty where the layers do not stand one behind the other.
        salient: Tells so many entries of a linear module, by its name; ``None`` where nobody can.
    """

    modules: tuple[Module, ...]
    layers: int = 0
    kv_heads: int = 0
    head_size: int = 0
    key_spread: Sequence[float] = field(default=())
    value_spread: Sequence[float] = field(default=())
    context: int = 0
    layer_spread: Sequence[float] = field(default=())
    salient: Callable[[str, int], Salient] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def by_name(self) -> Mapping[str, Module]:
        """The modules by their names."""
        return {module.name: module for module in self.modules}
