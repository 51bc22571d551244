"""Prefixes: keys and values in front of every sequence (Li & Liang, 2021, arXiv 2101.00190).

In every layer, or in chosen ones, without the reparametrisation, which P-tuning v2 (Liu et al.,
2022, arXiv 2110.07602) leaves open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from blackbox_delta.deltas.blocks import Block, BlockDelta
from blackbox_delta.deltas.peft import PeftAdapter, prefix_adapter
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry
from blackbox_delta.types import PREFIX, FloatArray, Json


class Prefix(BlockDelta):
    """Offsets to the keys and values that the model itself has for some words.

    z = 0 is the model that reads these words before everything else; in layers that are not
    chosen it goes on doing so. In a masked model, whose words change with what follows, they are
    as they are by themselves, and all tokens see them. In a sequence-to-sequence model they stand
    before what the decoder reads, as they are where the encoder reads the same words.

    Blocks: ``"LAYER.keys"`` and ``"LAYER.values"``, each of shape (kv_heads, tokens, head_size).

    Args:
        geometry: The model's shapes.
        token_ids: The words' tokens, at least one.
        layers: Which layers; ``None`` for all.

    Raises:
        ConfigError: There is no token, too many of them, no such layer, one that is named twice, or
            the model keeps no keys and values that could be set.
    """

    kind = PREFIX

    def __init__(
        self, geometry: Geometry, token_ids: Sequence[int], layers: Sequence[int] | None = None
    ) -> None:
        self._layers = tuple(range(geometry.layers)) if layers is None else tuple(layers)
        self._check(geometry, len(token_ids), self._layers)
        self._shape = (geometry.kv_heads, len(token_ids), geometry.head_size)
        self._spreads = [
            (geometry.key_spread[layer], geometry.value_spread[layer]) for layer in self._layers
        ]
        super().__init__(self._blocks(), token_ids)

    @classmethod
    def build(
        cls, geometry: Geometry, words: Sequence[int], tokens: int, layers: Sequence[int] | None
    ) -> Prefix:
        """A prefix of so many tokens, which are those of some words, cut or repeated.

        Raises:
            ConfigError: There are no words, or it makes no sense otherwise.
        """
        # Before there is a list of them, which nothing may have room for.
        cls._check(geometry, tokens, range(geometry.layers) if layers is None else layers)
        return cls(geometry, list(islice(cycle(words), tokens)), layers)

    @staticmethod
    def _check(geometry: Geometry, tokens: int, layers: Sequence[int]) -> None:
        if not geometry.layers:
            raise ConfigError("this model takes no prefix: its keys and values cannot be set")
        if tokens < 1:
            raise ConfigError("a prefix needs at least 1 token to start from")
        if tokens >= geometry.context:
            raise ConfigError(
                f"a prefix of {tokens} tokens leaves no room in the {geometry.context} tokens that "
                "this model reads"
            )
        unknown = [layer for layer in layers if not 0 <= layer < geometry.layers]
        if unknown or not layers:
            raise ConfigError(
                f"a prefix goes into layers 0 to {geometry.layers - 1} of this model, not into "
                f"{', '.join(map(str, unknown)) or 'none'}"
            )
        if twice := [layer for layer, count in Counter(layers).items() if count > 1]:
            raise ConfigError(
                f"a prefix goes into each layer once; named several times: "
                f"{', '.join(map(str, twice))}"
            )

    def _blocks(self) -> Iterator[Block]:
        share = len(self._layers) ** -0.5
        for layer, (keys, values) in zip(self._layers, self._spreads, strict=True):
            yield Block(f"{layer}.keys", self._shape, share * keys)
            yield Block(f"{layer}.values", self._shape, share * values)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The words' tokens."""
        return self._token_ids

    def peft(self, tensors: Mapping[str, FloatArray], words: FloatArray, task: str) -> PeftAdapter:
        """One candidate's tensors as PEFT's prefix tuning: finished keys and values.

        Args:
            tensors: The offsets.
            words: The words' own keys and values (layers, 2, kv_heads, tokens, head_size).
            task: ``"CAUSAL_LM"`` or ``"SEQ_2_SEQ_LM"``.
        """
        whole = words.astype(np.float32)
        for name, value in tensors.items():
            layer, _, which = name.partition(".")
            whole[int(layer), 0 if which == "keys" else 1] += value
        return prefix_adapter(whole, task)

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the model, ready for JSON."""
        return {
            "kind": self.kind,
            "tokens": list(self._token_ids),
            "layers": list(self._layers),
            "spreads": [list(pair) for pair in self._spreads],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], geometry: Geometry) -> Prefix:
        """The same prefix again, for a model of the same geometry.

        Raises:
            ConfigError: The settings are not those of a prefix, or the model has other shapes.
        """
        try:
            tokens, layers = list(map(int, config["tokens"])), list(map(int, config["layers"]))
            spreads = [(float(keys), float(values)) for keys, values in config["spreads"]]
            by_layer = dict(zip(layers, spreads, strict=True))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the settings of the prefix are incomplete or of another version: {error!r}"
            ) from error
        kept = [by_layer.get(layer, (0.0, 0.0)) for layer in range(geometry.layers)]
        measured = replace(
            geometry,
            key_spread=[keys for keys, _ in kept],
            value_spread=[values for _, values in kept],
        )
        return cls(measured, tokens, layers)
