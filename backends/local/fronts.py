"""Keys and values in front of the sequences of a model that reads in both directions.

A causal model's words are what they are whatever follows. Here they would change with every text,
so the words' own keys and values are those that they have alone, read by themselves. Every token
of a text can see them beside its text, in every layer and through every window; its own position
stays the one that it has without them.

The model's attention is exchanged for the time of a forward pass alone, by one that is registered
with transformers under :data:`NAME`: without a front the model runs as it always does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.feeding import Entrance
from blackbox_delta.errors import ModelError
from blackbox_delta.types import IntArray

NAME = "blackbox_delta_front"


class Fronts:
    """Puts keys and values in front of a model's sequences.

    Args:
        model: A model without a cache whose attention follows transformers' interface.
        trunk: The part of it that its head reads from.
        by_ids: Whether the model is given token ids.
    """

    def __init__(self, model: Any, trunk: Any, *, by_ids: bool = False) -> None:
        self._trunk = trunk
        self._entrance = Entrance.of(model, by_ids=by_ids)
        parts = [model, *model.modules()]
        held = {id(part.config): part.config for part in parts if hasattr(part, "config")}
        self._configs = list(held.values())

    def alone(self, rows: IntArray) -> PrefixCache:
        """Keys and values that the untuned model has for rows (G, L) of tokens by themselves.

        Raises:
            ModelError: Its attention is not transformers' exchangeable one, or keeps
                keys and values of several shapes.
        """
        table = self._entrance.table
        tokens = torch.from_numpy(rows).to(table.weight.device)
        lengths = torch.full((len(rows),), rows.shape[1], device=tokens.device)
        following = _Pass(record=PrefixCache(lengths))
        with self._entrance.fed(rows, table(tokens)) as given, self._exchanged(following):
            self._trunk(**given, attention_mask=torch.ones_like(tokens))
        kept = following.record
        if not kept.keys:
            raise ModelError("its attention is not transformers' exchangeable one")
        check_shapes([*kept.keys, *kept.values])
        return kept

    @contextmanager
    def acting(self, front: PrefixCache, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """For the time of one forward pass over G groups of rows, group by group.

        Args:
            front: Of G groups.
            inputs: What the model is given, which stays the same.

        Raises:
            ModelError: The model did not attend as often as there are layers.
        """
        following = _Pass(front=front)
        with self._exchanged(following):
            yield inputs
        if following.layer != len(front.keys):
            raise ModelError(
                f"the model attended {following.layer} times, not {len(front.keys)} as when it "
                "read the prefix's words; open it again, and take another delta if this goes on"
            )

    @contextmanager
    def _exchanged(self, following: _Pass) -> Iterator[None]:
        own = [config._attn_implementation for config in self._configs]
        token = _PASS.set(following)
        try:
            for config in self._configs:
                config._attn_implementation = NAME
            yield
        finally:
            for config, implementation in zip(self._configs, own, strict=True):
                config._attn_implementation = implementation
            _PASS.reset(token)


def check_shapes(kept: Sequence[torch.Tensor]) -> None:
    """Makes sure that keys and values of all layers are alike.

    Raises:
        ModelError: They are not.
    """
    if len({tensor.shape for tensor in kept}) > 1:
        raise ModelError("its layers keep keys and values of several shapes")


@dataclass
class _Pass:
    """One forward pass.

    Attributes:
        front: What every row of a group can see beside itself, or ``None``.
        record: Receives the rows' own keys and values, layer by layer.
        layer: How many layers have attended. Modules do not all know their number, and some models
            pass one module several times.
    """

    front: PrefixCache | None = None
    record: PrefixCache = field(default_factory=lambda: PrefixCache(torch.zeros(0)))
    layer: int = 0

    def behind_front(
        self, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (rows, kv heads, L + m, head) that the next layer sees."""
        layer, self.layer = self.layer, self.layer + 1
        if self.front is None:
            self.record.keys.append(key)
            self.record.values.append(value)
            return key, value
        return _joined(self.front.keys[layer], key), _joined(self.front.values[layer], value)


def _joined(front: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A group's front (G, h, L, d) before each of its rows (G·R, h, m, d)."""
    return torch.cat([repeated(front, len(own)), own], dim=2)


def repeated(front: torch.Tensor, rows: int) -> torch.Tensor:
    """A group's front (G, h, L, d) once for each of its rows (rows, h, L, d)."""
    return front.repeat_interleave(rows // len(front), dim=0)


_PASS: ContextVar[_Pass] = ContextVar("blackbox_delta_front_pass")


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    keys, values = _PASS.get().behind_front(key, value)
    if attention_mask is not None:
        # What may be seen is True in masks of one kind, and 0 in those that are added to scores.
        seen = 1.0 if attention_mask.dtype == torch.bool else 0.0
        more = (keys.shape[2] - key.shape[2], 0)
        attention_mask = torch.nn.functional.pad(attention_mask, more, value=seen)
    output: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, keys, values, attention_mask, **options
    )
    return output


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
