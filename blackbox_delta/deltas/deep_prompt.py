"""Deep prompts: soft tokens that are moved again in every layer.

After BBTv2 (Sun et al., 2022, arXiv 2205.11200), which gives every layer A_j z_j + p_j of its own:
here p_j are the states that the soft tokens have as they enter the layer, and A_j z_j is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blackbox_delta.deltas.blocks import Block, BlockDelta
from blackbox_delta.deltas.shapes import check_theta, zeros
from blackbox_delta.deltas.soft_prompt import SoftPrompt
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry
from blackbox_delta.types import AT_LAYER, DEEP_PROMPT, DeltaBatch, EmbeddingTable, FloatArray, Json


class _Offsets(BlockDelta):
    """What is added before the later layers."""

    kind = DEEP_PROMPT


class DeepPrompt:
    """A soft prompt, and offsets to its tokens' states before each later layer.

    z = 0 is the soft prompt's own start. θ holds the soft prompt in units of its scale, and then
    the layers in order, each slot by slot, in units of how large states are there. All layers
    together move as much as one alone would.

    Args:
        prompt: What stands in the slots.
        spreads: Root mean square of a token's state as it enters each layer. The first layer is
            entered by the soft tokens themselves.

    Raises:
        ConfigError: The model's layers cannot be reached.
    """

    kind = DEEP_PROMPT
    scale = 1.0

    def __init__(self, prompt: SoftPrompt, spreads: Sequence[float]) -> None:
        if not spreads:
            raise ConfigError(
                "this model takes no deep prompt: its layers do not stand one behind the other"
            )
        self._prompt = prompt
        self._spreads = [float(spread) for spread in spreads]
        self._share = len(self._spreads) ** -0.5
        hidden = prompt.size // sum(prompt.slots.values())
        self._offsets = _Offsets(
            Block(f"{slot}{AT_LAYER}{layer}", (length, hidden), self._share * spread)
            for layer, spread in enumerate(self._spreads)
            for slot, length in prompt.slots.items()
            if layer
        )
        self.origin = zeros(prompt.size + self._offsets.size)

    @classmethod
    def build(cls, prompt: SoftPrompt, geometry: Geometry) -> DeepPrompt:
        """For a model as it was measured.

        Raises:
            ConfigError: Its layers cannot be reached.
        """
        return cls(prompt, geometry.layer_spread)

    @property
    def size(self) -> int:
        """D = Σ length·hidden over slots and layers."""
        return self.origin.size

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers in each layer."""
        return (self._prompt.size,) * len(self._spreads)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(length, hidden) of each slot, layer by layer."""
        return self._prompt.shapes + self._offsets.shapes

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to one tensor (λ, length, hidden) for each slot and layer.

        Raises:
            ConfigError: θ has another shape.
        """
        check_theta(theta, self.size, self.kind)
        first, later = np.split(theta, [self._prompt.size], axis=1)
        own = first * np.float32(self._share * self._prompt.scale) + self._prompt.origin
        tensors = {**self._prompt.unpack(own).tensors, **self._offsets.unpack(later).tensors}
        return DeltaBatch(self.kind, tensors)

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the model, ready for JSON."""
        return {"kind": self.kind, "prompt": self._prompt.config(), "spreads": self._spreads}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], table: EmbeddingTable, geometry: Geometry
    ) -> DeepPrompt:
        """The same deep prompt again, for a model of the same geometry.

        Raises:
            ConfigError: The settings are not those of a deep prompt, or the model has another
                number of layers.
        """
        try:
            prompt, spreads = dict(config["prompt"]), [float(each) for each in config["spreads"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the settings of the deep prompt are incomplete or of another version: {error!r}"
            ) from error
        if len(spreads) != len(geometry.layer_spread):
            raise ConfigError(
                f"the deep prompt was made for {len(spreads)} layers; this model has "
                f"{len(geometry.layer_spread)}"
            )
        return cls(SoftPrompt.from_config(prompt, table), spreads)
