"""Attention of many rows over a prefix that they share, without a copy of it for each row.

A batch is G groups of R rows. All rows of a group continue the same prefix, whose keys and
values, of shape (G, kv heads, L, head), stand there once. Scores over the prefix are one matrix
product per group, with the rows' queries stacked. The function is registered with transformers
under :data:`NAME` and finds the running :class:`Plan` through a context variable, so that the
model's own code stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "blackbox_delta_shared_prefix"


@dataclass
class PrefixCache:
    """Keys and values of G prefixes, padded on the left to the same length L.

    Attributes:
        lengths: (G,) real length of each prefix.
        keys: One tensor (G, kv heads, L, head) per layer, already rotated.
        values: Likewise.
    """

    lengths: torch.Tensor
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    @property
    def padded_length(self) -> int:
        """L."""
        return self.keys[0].shape[2] if self.keys else 0

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return sum(2 * key.numel() * key.element_size() for key in self.keys)

    def behind(self, front: PrefixCache) -> PrefixCache:
        """The same with other prefixes before them, group by group; none of those is padded."""
        return PrefixCache(
            front.lengths + self.lengths,
            [torch.cat(pair, dim=2) for pair in zip(front.keys, self.keys, strict=True)],
            [torch.cat(pair, dim=2) for pair in zip(front.values, self.values, strict=True)],
        )

    def select(self, groups: torch.Tensor | slice) -> PrefixCache:
        """Some of the groups."""
        return PrefixCache(
            self.lengths[groups],
            [key[groups] for key in self.keys],
            [value[groups] for value in self.values],
        )


@dataclass
class Plan:
    """What the attention of the batch in hand may see.

    Attributes:
        visible: (G·R, m, L + m) bool; the last m columns are the rows' own tokens.
        query_positions: (G·R, m) positions of the rows' own tokens.
        key_positions: (G·R, L + m) positions of everything that can be seen.
        prefix: The shared keys and values, or ``None`` for L = 0.
        record: Receives the rows' own keys and values, layer by layer.
        masked_windows: Sliding windows of the masks that the model would have built.
        named_windows: Sliding windows that its layers named when they called the attention.
    """

    visible: torch.Tensor
    query_positions: torch.Tensor
    key_positions: torch.Tensor
    prefix: PrefixCache | None = None
    record: PrefixCache | None = None
    masked_windows: set[int] = field(default_factory=set)
    named_windows: set[int | None] = field(default_factory=set)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Output of shape (G·R, m, heads, head) for query (G·R, heads, m, head)."""
        window = options.get("sliding_window")
        self.named_windows.add(window)
        if self.record is not None:
            self.record.keys.append(key)
            self.record.values.append(value)
        batch, heads, m, size = query.shape
        kv_heads = key.shape[1]
        # Query heads of one key/value head are neighbours: fold them into the query length.
        folded = (query * scaling).reshape(batch, kv_heads, -1, size)
        scores = folded @ key.transpose(-1, -2)
        if self.prefix is not None:
            shared = self._over_prefix(folded, self.prefix.keys[layer].transpose(-1, -2))
            scores = torch.cat([shared, scores], dim=-1)
        scores = scores.view(batch, kv_heads, heads // kv_heads, m, -1)
        if (softcap := options.get("softcap")) is not None:
            scores = torch.tanh(scores / softcap) * softcap
        visible = self._within(window)
        scores = scores.masked_fill_(~visible[:, None, None], torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        weights = weights.view(batch, kv_heads, -1, weights.shape[-1])
        past = weights.shape[-1] - m
        output = weights[..., past:] @ value
        if self.prefix is not None:
            output = output + self._over_prefix(weights[..., :past], self.prefix.values[layer])
        return output.view(batch, heads, m, size).transpose(1, 2).contiguous()

    def check(self) -> None:
        """Makes sure that the model's attention was this one, with every window it knows of.

        Raises:
            NotImplementedError: The model has an attention of its own, or narrows what can be
                seen in its mask alone, which is not built here.
        """
        if not self.named_windows:
            raise NotImplementedError("its attention is not transformers' exchangeable one")
        if unnamed := self.masked_windows - self.named_windows:
            raise NotImplementedError(f"a window of {unnamed.pop()} that only its mask knows of")

    def _over_prefix(self, rows: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """(G·R, h, q, a) times a group's own (G, h, a, b), for all rows of a group at once."""
        batch, heads, queries, inner = rows.shape
        groups = shared.shape[0]
        stacked = rows.view(groups, -1, heads, queries, inner).transpose(1, 2)
        product = stacked.reshape(groups, heads, -1, inner) @ shared
        product = product.view(groups, heads, -1, queries, product.shape[-1]).transpose(1, 2)
        return product.reshape(batch, heads, queries, -1)

    def _within(self, window: int | None) -> torch.Tensor:
        if window is None:
            return self.visible
        distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
        return self.visible & (distance < window)


_PLAN: ContextVar[Plan] = ContextVar("blackbox_delta_attention_plan")


@contextmanager
def running(plan: Plan) -> Iterator[None]:
    """Makes ``plan`` the one that the model's attention follows.

    Raises:
        NotImplementedError: The model did not follow it.
    """
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)
    plan.check()


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    del attention_mask
    for unknown in ("position_bias", "s_aux"):
        if options.get(unknown) is not None:
            raise NotImplementedError(f"attention with {unknown}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return _PLAN.get().attend(layer, query, key, value, scale, options), None


def _no_mask(*_args: Any, local_size: int | None = None, **_options: Any) -> None:
    """The plan says what can be seen; the model need not build a mask."""
    if local_size is not None:
        _PLAN.get().masked_windows.add(local_size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)
