"""Kinds of delta, one file each: what is tuned, and how θ becomes tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blackbox_delta.deltas.adapter import Adapter
from blackbox_delta.deltas.bitfit import BitFit
from blackbox_delta.deltas.blocks import ModuleDelta
from blackbox_delta.deltas.composition import Composition
from blackbox_delta.deltas.deep_prompt import DeepPrompt
from blackbox_delta.deltas.ia3 import IA3
from blackbox_delta.deltas.lora import LoRA
from blackbox_delta.deltas.prefix import Prefix
from blackbox_delta.deltas.selective import LastLayer, Selective
from blackbox_delta.deltas.soft_prompt import TEXT, SoftPrompt
from blackbox_delta.deltas.sparse import Sparse
from blackbox_delta.deltas.tiny_lora import TinyLoRA
from blackbox_delta.errors import ConfigError

if TYPE_CHECKING:
    from blackbox_delta.geometry import Geometry
    from blackbox_delta.types import Delta, EmbeddingTable

MODULE_DELTAS: dict[str, type[ModuleDelta]] = {
    each.kind: each for each in (LoRA, TinyLoRA, Adapter, BitFit, IA3, LastLayer, Selective, Sparse)
}
"""Kinds that act at modules inside a model."""

KINDS = (SoftPrompt.kind, DeepPrompt.kind, Prefix.kind, *MODULE_DELTAS)
"""All kinds, as they are chosen."""

__all__ = [
    "IA3",
    "KINDS",
    "MODULE_DELTAS",
    "TEXT",
    "Adapter",
    "BitFit",
    "Composition",
    "DeepPrompt",
    "LastLayer",
    "LoRA",
    "ModuleDelta",
    "Prefix",
    "Selective",
    "SoftPrompt",
    "Sparse",
    "TinyLoRA",
    "delta_from_config",
]


def delta_from_config(
    config: Mapping[str, Any], table: EmbeddingTable | None, geometry: Geometry | None = None
) -> Delta:
    """The delta whose ``config()`` this is, p0 included.

    Args:
        config: What the delta said of itself.
        table: The model's input embeddings; ``None`` where they cannot be read.
        geometry: The model's inside; ``None`` where it cannot be reached.

    Raises:
        ConfigError: The kind is unknown, or the settings do not fit it or the model.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{config!r} is not what a delta says of itself")
    kind = str(config.get("kind"))
    if "+" in kind:
        parts = config.get("deltas")
        several = parts if isinstance(parts, list) else []
        return Composition([delta_from_config(part, table, geometry) for part in several])
    if kind == SoftPrompt.kind and table is not None:
        return SoftPrompt.from_config(config, table)
    if kind == DeepPrompt.kind and table is not None and geometry is not None:
        return DeepPrompt.from_config(config, table, geometry)
    if geometry is not None and kind == Prefix.kind:
        return Prefix.from_config(config, geometry)
    if geometry is not None and kind in MODULE_DELTAS:
        return MODULE_DELTAS[kind].from_config(config, geometry)
    if kind in KINDS:
        raise ConfigError(f"this model takes no {_several(kind)}, so this delta cannot act")
    raise ConfigError(
        f"There is no delta of kind '{kind}' in this version. Known: {', '.join(KINDS)}."
    )


def _several(kind: str) -> str:
    return kind.replace("-", " ") + ("es" if kind.endswith("x") else "s")
