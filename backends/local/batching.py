"""How much goes through the model at once: packs of similar length under a memory limit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbox_delta.errors import OutOfMemoryError

logger = logging.getLogger(__name__)

#: Beyond this many tokens a CPU gains nothing from a larger batch.
CPU_BATCH_TOKENS = 4096
#: A pack holds lengths up to this much apart, so that little is computed on padding.
LENGTH_SLACK = 1.25


@dataclass(frozen=True)
class Footprint:
    """Bytes that activations take, from the model's geometry.

    Attributes:
        per_token: Hidden states and projections of one token.
        per_score: One attention score, over all heads.
        per_logit_row: One position's logits with their float32 copy.
    """

    per_token: int
    per_score: int
    per_logit_row: int

    @classmethod
    def of(cls, config: Any, vocabulary: int, element_size: int) -> Footprint:
        """Estimates for a model with this configuration."""
        hidden = int(config.hidden_size)
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        heads = int(getattr(config, "num_attention_heads", None) or 1)
        return cls(
            per_token=element_size * (8 * hidden + 3 * inner),
            per_score=heads * (2 * element_size + 4),
            per_logit_row=vocabulary * (element_size + 8),
        )

    def of_row(self, tokens: int, visible: int, logits: int) -> int:
        """Bytes of one row: ``tokens`` of its own, ``visible`` to attend to, ``logits`` read."""
        return (
            self.per_token * tokens
            + self.per_score * tokens * visible
            + self.per_logit_row * logits
        )


class MemoryLimit:
    """The bytes and tokens that one forward pass may take; shrinks when memory runs out."""

    def __init__(self, footprint: Footprint, limit_bytes: int, limit_tokens: int | None) -> None:
        self._footprint = footprint
        self._bytes = limit_bytes
        self._tokens = limit_tokens

    @classmethod
    def sensible(cls, footprint: Footprint, device: torch.device) -> MemoryLimit:
        """Half of a GPU's free memory, or 2 GiB of a CPU's."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            return cls(footprint, free // 2, None)
        return cls(footprint, 2 << 30, CPU_BATCH_TOKENS)

    @property
    def bytes(self) -> int:
        """The limit in force."""
        return self._bytes

    def rows(self, tokens: int, visible: int, logits: int) -> int:
        """How many such rows fit into one forward pass; at least one."""
        fit = self._bytes // self._footprint.of_row(tokens, visible, logits)
        if self._tokens is not None:
            fit = min(fit, self._tokens // max(1, tokens))
        return max(1, fit)

    def halve(self) -> None:
        """Half of everything, and says so."""
        self._bytes //= 2
        if self._tokens is not None:
            self._tokens //= 2
        logger.warning("out of memory: going on with batches half as large")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def in_chunks(
    total: int, rows_that_fit: Callable[[], int], limit: MemoryLimit, work: Callable[[slice], None]
) -> None:
    """Runs ``work`` on consecutive slices of ``range(total)``, smaller ones when memory runs out.

    Raises:
        OutOfMemoryError: A single row does not fit.
    """
    start = 0
    while start < total:
        size = min(rows_that_fit(), total - start)
        try:
            work(slice(start, start + size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemoryError(
                    "out of memory on a single row: use a shorter template, fewer soft tokens, "
                    "a lower precision or a smaller model"
                ) from error
            while rows_that_fit() >= size:
                limit.halve()
            continue
        start += size


def packs_by_length(lengths: Sequence[tuple[int, ...]], most: int | None = None) -> list[list[int]]:
    """Groups indices so that every length in a group is close to the group's longest.

    Args:
        lengths: One tuple of lengths per item; each is padded to its group's maximum.
        most: Largest group.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    packs: list[list[int]] = []
    for index in order:
        pack = packs[-1] if packs else None
        if pack and (most is None or len(pack) < most) and _fits(lengths, pack, index):
            pack.append(index)
        else:
            packs.append([index])
    return packs


def _fits(lengths: Sequence[tuple[int, ...]], pack: list[int], index: int) -> bool:
    columns = zip(*(lengths[member] for member in (*pack, index)), strict=True)
    return all(max(column) <= LENGTH_SLACK * min(column) + 4 for column in columns)
