"""Kinds of delta, one file each: what is tuned, and how θ becomes tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blackbox_delta.deltas.soft_prompt import TEXT, SoftPrompt
from blackbox_delta.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blackbox_delta.types import Delta, EmbeddingTable

DELTAS = {SoftPrompt.kind: SoftPrompt}
"""Kind to class, for rebuilding what an artifact describes."""

__all__ = ["DELTAS", "TEXT", "SoftPrompt", "delta_from_config"]


def delta_from_config(config: Mapping[str, Any], table: EmbeddingTable) -> Delta:
    """The delta whose ``config()`` this is, p0 included.

    Raises:
        ConfigError: The kind is unknown, or the settings do not fit it or the model.
    """
    kind = config.get("kind")
    if kind not in DELTAS:
        raise ConfigError(
            f"There is no delta of kind '{kind}' in this version. Known: {', '.join(DELTAS)}."
        )
    return DELTAS[kind].from_config(config, table)
