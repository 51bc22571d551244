"""Deltas that act on modules inside a model: θ in blocks, each with its own scale and start.

An entry of θ is in natural units: with θ = 0 every block is at its start, and with θ ~ N(0, 1)
the whole delta moves what the modules put out by about as much as it is large. So one scale
serves every kind, every model and every layer.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, Self

import numpy as np

from blackbox_delta.deltas.shapes import check_theta, zeros
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module
from blackbox_delta.slices import consecutive
from blackbox_delta.tensors import DeferredTensors, Layout, Piece, Theta
from blackbox_delta.types import DeltaBatch, FloatArray, Json


@dataclass(frozen=True)
class Block:
    """One tensor of a candidate.

    Attributes:
        name: The module's name, a dot and the part's.
        shape: Without the leading λ.
        scale: Standard deviation of an entry when θ ~ N(0, 1).
        start: At θ = 0: an array of that shape, or a number for all entries.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    start: FloatArray | float = 0.0

    @property
    def size(self) -> int:
        """How many entries of θ it takes."""
        return math.prod(self.shape)

    def tensor(self, theta: FloatArray) -> FloatArray:
        """(λ, …) from its entries (λ, size)."""
        part = theta.astype(np.float32, copy=False).reshape(len(theta), *self.shape)
        made: FloatArray = part * np.float32(self.scale) + np.asarray(self.start, "f4")
        return made


@dataclass(frozen=True)
class PlacedBlock:
    """A block, and where θ holds it: a :class:`blackbox_delta.tensors.Piece`."""

    block: Block
    rows: slice

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the leading λ."""
        return self.block.shape

    def tensor(self, theta: FloatArray) -> FloatArray:
        """(λ, …) from its part of θ."""
        return self.block.tensor(theta)

    def digest(self) -> bytes:
        """SHA-256 over scale and start."""
        start = np.ascontiguousarray(self.block.start, dtype="<f4")
        return hashlib.sha256(f"{self.block.scale!r} ".encode() + start.tobytes()).digest()


def even(fan_in: int, shape: tuple[int, ...], bits: np.random.PCG64) -> FloatArray:
    """Entries of variance 1 / ``fan_in``, uniform, the same bits on every machine.

    numpy promises the raw stream of a bit generator for ever; the rest is exact arithmetic.
    """
    upper = (bits.random_raw(math.prod(shape)) >> np.uint64(40)).astype(np.float64)
    u = (upper + 0.5) * 2.0**-23 - 1.0
    return (math.sqrt(3.0 / fan_in) * u).astype(np.float32).reshape(shape)


def widest(modules: Sequence[Module]) -> int:
    """Inputs and outputs together, of the widest of some modules.

    A term that goes through more numbers than these can do nothing that one through fewer cannot.
    """
    return max(module.inputs + module.outputs for module in modules)


class BlockDelta:
    """A delta that consists of blocks.

    Args:
        blocks: In the order in which θ holds them.
        token_ids: Tokens that it starts from; often none.
    """

    kind: ClassVar[str]
    scale = 1.0

    def __init__(self, blocks: Iterable[Block], token_ids: Sequence[int] = ()) -> None:
        self.blocks = tuple(blocks)
        self._token_ids = tuple(token_ids)
        self.origin = zeros(sum(block.size for block in self.blocks))

    @property
    def size(self) -> int:
        """D."""
        return self.origin.size

    @property
    def groups(self) -> tuple[int, ...]:
        """Lengths of θ's layers; of its modules where there is one layer or none."""
        by_layer = self._grouped(r".*?(?<![^.])\d+(?=\.)")  # up to the layer's number
        return by_layer if len(by_layer) > 1 else self._grouped(r".*(?=\.)")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the blocks."""
        return tuple(block.shape for block in self.blocks)

    def _grouped(self, pattern: str) -> tuple[int, ...]:
        """Lengths of the blocks that follow one another and whose names begin alike."""

        def beginning(block: Block) -> str:
            found = re.match(pattern, block.name)
            return found.group() if found else ""

        return tuple(
            sum(block.size for block in blocks) for _, blocks in groupby(self.blocks, beginning)
        )

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to one tensor (λ, …) for each block.

        Raises:
            ConfigError: θ has another shape.
        """
        check_theta(theta, self.size, self.kind)
        pieces = self.layout.pieces.items()
        tensors = {name: piece.tensor(theta[:, piece.rows]) for name, piece in pieces}
        return DeltaBatch(self.kind, tensors, self._token_ids)

    def deferred(self, theta: Theta) -> DeltaBatch:
        """What :meth:`unpack` makes of θ, its tensors made when they are read."""
        return DeltaBatch(self.kind, DeferredTensors(((theta, self.layout),)), self._token_ids)

    @cached_property
    def layout(self) -> Layout:
        """Its tensors, and where θ holds them."""
        return Layout(self._pieces())

    def _pieces(self) -> dict[str, Piece]:
        parts = consecutive(block.size for block in self.blocks)
        return {
            block.name: PlacedBlock(block, rows)
            for block, rows in zip(self.blocks, parts, strict=True)
        }


class ModuleDelta(BlockDelta):
    """Tensors for modules of a model.

    Args:
        modules: What it acts on, at least one.
        settings: Whole numbers that the tensors follow from, beside the modules.

    Raises:
        ConfigError: A setting makes no sense, or it cannot act on the modules.
    """

    #: The modules that it acts on unless others are named.
    targets: ClassVar[str | Sequence[str]]
    #: Whether it acts on linear layers alone: it needs their matrices, or PEFT takes no others.
    needs_matrices: ClassVar[bool] = True
    #: Names and defaults of the kind's settings.
    defaults: ClassVar[Mapping[str, int]] = {}

    def __init__(self, modules: Sequence[Module], **settings: int) -> None:
        self.modules = tuple(modules)
        self.settings = {**self.defaults, **settings}
        self._check()
        # Parts that act one after another add up: together they move as much as one alone would.
        self._share = 1.0 / math.sqrt(len(self.modules))
        super().__init__(self._blocks())

    def _check(self) -> None:
        """Before anything is made, which may be too large for any machine."""
        self._check_modules(self.modules)
        most = self._most()
        for name, value in self.settings.items():
            least = 0 if name == "seed" else 1
            if value < least:
                raise ConfigError(f"{name} of {self.kind} is at least {least}, not {value}")
            if value > most.get(name, value):
                raise ConfigError(
                    f"{name} of {self.kind} is at most {most[name]} at these modules, not {value}"
                )

    @classmethod
    def _check_modules(cls, modules: Sequence[Module]) -> None:
        if not modules:
            raise ConfigError(f"{cls.kind} needs a module to act on")
        without = [module.name for module in modules if not module.linear]
        if cls.needs_matrices and without:
            raise ConfigError(f"{cls.kind} acts on linear layers, and {without[0]!r} is none")

    def _most(self) -> Mapping[str, int]:
        """The largest value of each setting that has one."""
        return {}

    def _blocks(self) -> Iterable[Block]:
        raise NotImplementedError

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the model, ready for JSON."""
        modules = [[each.name, each.inputs, each.outputs, each.level, each.spread]
                   for each in self.modules]  # fmt: skip
        return {"kind": self.kind, **self.settings, "modules": modules}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], geometry: Geometry) -> Self:
        """The same delta again, for a model of the same geometry.

        Raises:
            ConfigError: The settings are not those of such a delta, or the model lacks a module.
        """
        modules, settings = cls._kept(config, geometry)
        return cls(modules, **settings)

    @classmethod
    def build(cls, modules: Sequence[Module], geometry: Geometry, **settings: int) -> Self:
        """For modules of a model, with what else its geometry tells.

        Raises:
            ConfigError: A setting makes no sense.
        """
        del geometry  # most kinds need the modules alone
        return cls(modules, **settings)

    @classmethod
    def _kept(
        cls, config: Mapping[str, Any], geometry: Geometry
    ) -> tuple[list[Module], dict[str, int]]:
        """Modules and settings that were saved."""
        try:
            settings = {name: int(config[name]) for name in cls.defaults}
            kept = [tuple(entry) for entry in config["modules"]]
            return [_module(geometry, *entry) for entry in kept], settings
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the settings of the {cls.kind} are incomplete or of another version: {error!r}"
            ) from error


def _module(
    geometry: Geometry, name: str, inputs: int, outputs: int, level: float, spread: float
) -> Module:
    """A module as it was measured when the delta was made."""
    module = geometry.by_name.get(name)
    if module is None:
        raise ConfigError(f"the delta acts on a module {name!r}, which this model does not have")
    if (module.inputs, module.outputs) != (inputs, outputs):
        raise ConfigError(
            f"the delta's module {name!r} takes {inputs} numbers to {outputs}; this model's takes "
            f"{module.inputs} to {module.outputs}"
        )
    return Module(name, inputs, outputs, module.linear, float(level), float(spread))
