"""A sparse mask: the few entries of each matrix that matter most, and no others.

As FISH Mask (Sung et al., 2021, arXiv 2111.09839), which ranks entries by their Fisher information
and so needs gradients. Here they are ranked by |w_ij|·‖x_j‖, which a forward pass tells (Wanda, Sun
et al., 2023, arXiv 2306.11695, equation 1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.targets import ALL_LINEAR
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module, Salient
from blackbox_delta.tensors import Piece
from blackbox_delta.types import FloatArray, Json


class Sparse(ModuleDelta):
    """w_ij + v_ij for chosen entries (i, j) of each matrix; z = 0 is the untuned model.

    Blocks: ``"MODULE.values"`` of shape (entries,); a batch holds ``"MODULE.rows"`` and
    ``"MODULE.columns"`` beside them, the places as whole numbers.

    Args:
        modules: Linear layers.
        chosen: Their entries, a module after the other.
        entries: How many each has at most.
    """

    kind = "sparse"
    targets = ALL_LINEAR
    defaults: ClassVar[Mapping[str, int]] = {"entries": 64}

    def __init__(
        self, modules: Sequence[Module], chosen: Sequence[Salient], **settings: int
    ) -> None:
        self._chosen = tuple(chosen)
        super().__init__(modules, **settings)

    @classmethod
    def build(cls, modules: Sequence[Module], geometry: Geometry, **settings: int) -> Self:
        """The most important entries of the modules.

        Raises:
            ConfigError: Nobody can tell which ones these are, or a setting makes no sense.
        """
        entries = {**cls.defaults, **settings}["entries"]
        if geometry.salient is None:
            raise ConfigError("which entries of its matrices matter cannot be told for this model")
        if entries < 1:
            raise ConfigError(f"entries of {cls.kind} is at least 1, not {entries}")
        return cls(modules, [geometry.salient(each.name, entries) for each in modules], **settings)

    def _blocks(self) -> list[Block]:
        return [
            Block(f"{module.name}.values", (len(chosen.rows),), self._scale(module, chosen))
            for module, chosen in zip(self.modules, self._chosen, strict=True)
        ]

    def _scale(self, module: Module, chosen: Salient) -> float:
        """Together the entries move the outputs' sum of squares by as much as it is large."""
        moved = sum(level**2 for level in chosen.levels)
        return self._share * module.spread * math.sqrt(module.outputs / moved)

    def _pieces(self) -> dict[str, Piece]:
        values = super()._pieces()
        pieces: dict[str, Piece] = {}
        for module, chosen in zip(self.modules, self._chosen, strict=True):
            pieces[f"{module.name}.values"] = values[f"{module.name}.values"]
            pieces[f"{module.name}.rows"] = _Places(chosen.rows)
            pieces[f"{module.name}.columns"] = _Places(chosen.columns)
        return pieces

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the model, ready for JSON."""
        return {**super().config(), "chosen": [list(map(list, each)) for each in self._chosen]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], geometry: Geometry) -> Self:
        """The same delta again, its entries too, for a model of the same geometry.

        Raises:
            ConfigError: The settings are not those of such a delta, or the model lacks a module or
                an entry.
        """
        modules, settings = cls._kept(config, geometry)
        try:
            chosen = [_salient(*entry) for entry in config["chosen"]]
            fits = all(_fits(*pair) for pair in zip(modules, chosen, strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the settings of the {cls.kind} are incomplete or of another version: {error!r}"
            ) from error
        if not fits:
            raise ConfigError(
                f"the {cls.kind} names entries that this model's matrices do not have"
            )
        return cls(modules, chosen, **settings)


@dataclass(frozen=True)
class _Places:
    """Rows or columns of a matrix, the same whatever θ is; float32 holds any below 2^24 exactly."""

    places: tuple[int, ...]
    rows: ClassVar[slice] = slice(0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places),)

    def tensor(self, theta: FloatArray) -> FloatArray:
        return np.broadcast_to(np.array(self.places, np.float32), (len(theta), *self.shape))

    def digest(self) -> bytes:
        return hashlib.sha256(repr(self.places).encode()).digest()


def _salient(rows: Any, columns: Any, levels: Any) -> Salient:
    return Salient(tuple(map(int, rows)), tuple(map(int, columns)), tuple(map(float, levels)))


def _fits(module: Module, chosen: Salient) -> bool:
    rows, columns, levels = chosen
    return (
        0 < len(rows) == len(columns) == len(levels)
        and 0 <= min(rows) <= max(rows) < module.outputs
        and 0 <= min(columns) <= max(columns) < module.inputs
        and min(levels) > 0
    )
