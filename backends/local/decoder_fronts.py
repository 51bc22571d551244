"""Keys and values in front of what the decoder of a sequence-to-sequence model reads.

They stand before its self-attention in every layer, where a cache would hold tokens that it has
read already, and are handed to it as its cache: attention, positions and masks are the model's
own. The encoder and the attention to it stay as they are.

In a decoder a word is what it is by what the encoder reads. So that a prefix is the same for every
text, its words' own keys and values are those that they have where the encoder reads the same
words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import MoEModelOutput

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.feeding import Entrance
from blackbox_delta.backends.local.fronts import check_shapes, repeated
from blackbox_delta.errors import ModelError
from blackbox_delta.types import IntArray


class DecoderFronts:
    """Puts keys and values in front of a decoder's sequences.

    Args:
        model: A sequence-to-sequence model.
        by_ids: Whether the model is given token ids.
    """

    def __init__(self, model: Any, *, by_ids: bool = False) -> None:
        self._model = model
        self._encoders = Entrance.of(model, by_ids=by_ids)
        self._own = Entrance.of_decoder(model, by_ids=by_ids)

    def alone(self, rows: IntArray) -> PrefixCache:
        """Keys and values of rows (G, L) of tokens where encoder and decoder read the same row.

        Raises:
            ModelError: The model keeps none in its cache, or of several shapes.
        """
        tokens = torch.from_numpy(rows).to(self._own.table.weight.device)
        mask, cache = torch.ones_like(tokens), _empty()
        with self._encoders.fed(rows, self._encoders.table(tokens)) as given:
            encoded = self._model.get_encoder()(**given, attention_mask=mask)
        with self._own.fed(rows, self._own.table(tokens)) as given:
            self._model(
                encoder_outputs=MoEModelOutput(last_hidden_state=encoded.last_hidden_state),
                attention_mask=mask,
                **given,
                past_key_values=cache,
                use_cache=True,
            )
        layers = cache.self_attention_cache.layers
        if not layers:
            raise ModelError("its decoder keeps no keys and values in a cache")
        kept = PrefixCache(
            torch.full((len(rows),), rows.shape[1], device=tokens.device),
            [layer.keys for layer in layers],
            [layer.values for layer in layers],
        )
        check_shapes([*kept.keys, *kept.values])
        return kept

    @contextmanager
    def acting(self, front: PrefixCache, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the model is to be given for one forward pass over G groups of rows, group by group.

        Args:
            front: Of G groups.
            inputs: Without it; with a mask for the decoder.
        """
        mask, cache = inputs["decoder_attention_mask"], _empty()
        for layer, both in enumerate(zip(front.keys, front.values, strict=True)):
            keys, values = (repeated(each, len(mask)) for each in both)
            cache.self_attention_cache.update(keys, values, layer)
        yield {
            **inputs,
            "decoder_attention_mask": torch.nn.functional.pad(
                mask, (front.padded_length, 0), value=1
            ),
            "past_key_values": cache,
            "use_cache": True,
        }


def _empty() -> EncoderDecoderCache:
    return EncoderDecoderCache(DynamicCache(), DynamicCache())
