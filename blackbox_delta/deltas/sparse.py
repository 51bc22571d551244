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
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from blackbox_delta.deltas.blocks import Block, ModuleDelta
from blackbox_delta.deltas.peft import OUTER, PeftAdapter
from blackbox_delta.deltas.targets import ALL_LINEAR
from blackbox_delta.errors import ConfigError, ExportError
from blackbox_delta.geometry import Geometry, Module
from blackbox_delta.tensors import Piece
from blackbox_delta.types import FloatArray, Json

#: A place takes some hundred bytes while it is chosen, and a dozen in what is kept.
MOST_PLACES = 2**20


class Entries(NamedTuple):
    """The chosen entries of a matrix, the most important first.

    Attributes:
        rows: Which output each belongs to.
        columns: Which input.
        power: Sum of the mean squares of these inputs.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    power: float

    @property
    def text(self) -> str:
        """``row:column`` of each: lists of numbers would be most of what is kept of a run."""
        return " ".join(
            f"{row}:{column}" for row, column in zip(self.rows, self.columns, strict=True)
        )

    @classmethod
    def of(cls, text: str, power: float) -> Entries:
        """The inverse.

        Raises:
            ValueError: The text is no such list.
        """
        places = [place.split(":") for place in text.split(" ")]
        rows, columns = zip(*[(int(row), int(column)) for row, column in places], strict=True)
        return cls(rows, columns, float(power))


class Sparse(ModuleDelta):
    """w_ij + v_ij for chosen entries (i, j) of each matrix; z = 0 is the untuned model.

    Blocks: ``"MODULE.values"`` of shape (entries,); a batch holds ``"MODULE.rows"`` and
    ``"MODULE.columns"`` beside them, the places as whole numbers.

    Args:
        modules: Linear layers.
        chosen: Entries of each.
        entries: How many each has at most.
    """

    kind = "sparse"
    targets = ALL_LINEAR
    defaults: ClassVar[Mapping[str, int]] = {"entries": 64}

    def __init__(
        self, modules: Sequence[Module], chosen: Sequence[Entries], **settings: int
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
        cls._check_modules(modules)
        if entries < 1:
            raise ConfigError(f"entries of {cls.kind} is at least 1, not {entries}")
        places = sum(min(entries, each.inputs * each.outputs) for each in modules)
        if places > MOST_PLACES:
            raise ConfigError(
                f"entries = {entries} of {cls.kind} are {places} places in these modules, of which "
                f"at most {MOST_PLACES} are kept; take fewer, or whole matrices: selective"
            )
        salient = [geometry.salient(each.name, entries) for each in modules]
        powers = [sum(level**2 for level in each.levels) for each in salient]
        chosen = [Entries(e.rows, e.columns, p) for e, p in zip(salient, powers, strict=True)]
        return cls(modules, chosen, **settings)

    def _blocks(self) -> list[Block]:
        return [
            Block(f"{module.name}.values", (len(chosen.rows),), self._scale(module, chosen))
            for module, chosen in zip(self.modules, self._chosen, strict=True)
        ]

    def _scale(self, module: Module, chosen: Entries) -> float:
        """Together the entries move the outputs' sum of squares by as much as it is large."""
        return self._share * module.spread * math.sqrt(module.outputs / chosen.power)

    def _pieces(self) -> dict[str, Piece]:
        values = super()._pieces()
        pieces: dict[str, Piece] = {}
        for module, chosen in zip(self.modules, self._chosen, strict=True):
            pieces[f"{module.name}.values"] = values[f"{module.name}.values"]
            pieces[f"{module.name}.rows"] = _Places(chosen.rows)
            pieces[f"{module.name}.columns"] = _Places(chosen.columns)
        return pieces

    def peft(self, tensors: Mapping[str, FloatArray]) -> PeftAdapter:
        """One candidate's tensors as PEFT's SHiRA (Bhardwaj et al., 2024, arXiv 2406.13175).

        Raises:
            ExportError: SHiRA has no place for so many entries of a small matrix.
        """
        rank = self._shira_rank()
        config: Json = {
            "peft_type": "SHIRA",
            "r": rank,
            "target_modules": [module.name for module in self.modules],
        }
        named: dict[str, npt.NDArray[Any]] = {}
        for module, chosen in zip(self.modules, self._chosen, strict=True):
            # The first place once more, with nothing to add to it, as often as SHiRA has room.
            more = rank * (module.inputs + module.outputs) - len(chosen.rows)
            places = np.array([chosen.rows, chosen.columns], np.int32)
            name = f"{OUTER}{module.name}"
            named[f"{name}.shira_weight"] = np.pad(tensors[f"{module.name}.values"], (0, more))
            named[f"{name}.shira_indices"] = np.concatenate(
                [places, np.repeat(places[:, :1], more, axis=1)], axis=1
            )
        return PeftAdapter(config, named)

    def _shira_rank(self) -> int:
        """r, with which SHiRA has r (inputs + outputs) entries in every matrix."""
        pairs = list(zip(self.modules, self._chosen, strict=True))
        rank = max(-(-len(chosen.rows) // (m.inputs + m.outputs)) for m, chosen in pairs)
        for module in self.modules:
            if rank * (module.inputs + module.outputs) > module.inputs * module.outputs:
                raise ExportError(
                    f"PEFT's SHiRA takes {rank} x (inputs + outputs) entries of every matrix, more "
                    f"than {module.name} has; tune with fewer --set delta.entries=N, or without "
                    "that module, or merge the delta into the model: --format merged"
                )
        return rank

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the model, ready for JSON."""
        return {
            **super().config(),
            "places": [each.text for each in self._chosen],
            "powers": [each.power for each in self._chosen],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], geometry: Geometry) -> Self:
        """The same delta again, its entries too, for a model of the same geometry.

        Raises:
            ConfigError: The settings are not those of such a delta, or the model lacks a module or
                an entry.
        """
        modules, settings = cls._kept(config, geometry)
        try:
            pairs = zip(config["places"], config["powers"], strict=True)
            chosen = [Entries.of(*pair) for pair in pairs]
            fits = all(_fits(*pair) for pair in zip(modules, chosen, strict=True))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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


def _fits(module: Module, chosen: Entries) -> bool:
    rows, columns, power = chosen
    return (
        0 <= min(rows) <= max(rows) < module.outputs
        and 0 <= min(columns) <= max(columns) < module.inputs
        and power > 0
    )
