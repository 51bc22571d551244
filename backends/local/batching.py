"""How much goes through the model at once: packs of similar length under a memory limit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbox_delta.errors import OutOfMemoryError

logger = logging.getLogger(__name__)

#: For each thread: a CPU gains nothing from more tokens at a time, and loses what its caches hold.
CPU_BATCH_TOKENS = 512
#: For each thread: tokens that a CPU computes in the time that it takes to begin a pass.
CPU_PASS_TOKENS = 24
#: A pack holds lengths up to this much apart, so that little is computed on padding.
LENGTH_SLACK = 1.25


@dataclass(frozen=True)
class Footprint:
    """Bytes that activations take, from the model's geometry.

    Attributes:
        per_token: Hidden states and projections of one token.
        per_score: One attention score, over all heads.
        per_logit_row: One position's logits with their float32 copy.
        per_kept_token: Keys and values of one token, over all layers.
    """

    per_token: int
    per_score: int
    per_logit_row: int
    per_kept_token: int

    @classmethod
    def of(cls, config: Any, vocabulary: int, element_size: int) -> Footprint:
        """Estimates for a model with this configuration."""
        config = config.get_text_config()
        hidden = _largest(config, "hidden_size", 1024)
        inner = _largest(config, "intermediate_size", 4 * hidden)
        heads = _largest(config, "num_attention_heads", 1)
        kv_heads = _largest(config, "num_key_value_heads", heads)
        head_size = _largest(config, "head_dim", max(1, hidden // heads))
        layers = _largest(config, "num_hidden_layers", 1)
        return cls(
            per_token=element_size * (8 * hidden + 3 * inner),
            per_score=heads * (2 * element_size + 4),
            per_logit_row=vocabulary * (element_size + 8),
            per_kept_token=2 * element_size * layers * kv_heads * head_size,
        )

    def of_row(self, tokens: int, visible: int, logits: int, kept: int = 0) -> int:
        """Bytes of one row.

        Args:
            tokens: Its own tokens.
            visible: Tokens to attend to.
            logits: Positions read.
            kept: Tokens whose keys and values stand in memory for this row alone.
        """
        return (
            self.per_token * tokens
            + self.per_score * tokens * visible
            + self.per_logit_row * logits
            + self.per_kept_token * kept
        )


def _largest(config: Any, name: str, otherwise: int) -> int:
    """A size that a configuration may leave out, or state for each layer."""
    try:
        value = getattr(config, name, None)
    except Exception:  # what differs between layers may not be asked for as one
        value = [getattr(each, name, None) for each in config.per_layer_config]
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return max((int(size) for size in sizes if size), default=otherwise)


class MemoryLimit:
    """The bytes and tokens that one forward pass may take; shrinks when memory runs out.

    Args:
        footprint: What a row takes.
        limit_bytes: The most of a pass.
        limit_tokens: Likewise; ``None`` for what the memory holds.
        pass_tokens: Tokens that are computed in the time that it takes to begin a pass; ``None``
            where padding costs next to nothing.
    """

    def __init__(
        self,
        footprint: Footprint,
        limit_bytes: int,
        limit_tokens: int | None,
        pass_tokens: int | None = None,
    ) -> None:
        self._footprint = footprint
        self._bytes = limit_bytes
        self._tokens = limit_tokens
        self._pass_tokens = pass_tokens

    @classmethod
    def sensible(cls, footprint: Footprint, device: torch.device) -> MemoryLimit:
        """Half of a CUDA GPU's free memory, or 2 GiB, of which a CPU fills as much as is fast."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            return cls(footprint, free // 2, None)
        if device.type != "cpu":
            return cls(footprint, 2 << 30, None)
        threads = torch.get_num_threads()
        return cls(footprint, 2 << 30, threads * CPU_BATCH_TOKENS, threads * CPU_PASS_TOKENS)

    @property
    def bytes(self) -> int:
        """The limit in force."""
        return self._bytes

    def rows(self, tokens: int, visible: int, logits: int, kept: int = 0) -> int:
        """How many such rows fit into one forward pass; at least one."""
        fit = self._bytes // self._footprint.of_row(tokens, visible, logits, kept)
        if self._tokens is not None:
            fit = min(fit, self._tokens // max(1, tokens))
        return max(1, fit)

    def begun(self, tokens: int) -> int:
        """Beginnings of so many tokens whose keys and values may be held; at least one."""
        return max(1, self._bytes // max(1, self._footprint.per_kept_token * tokens))

    def padding(self, copies: int) -> float:
        """Tokens of padding in a row, which stands for so many, that are cheaper than a pass."""
        return math.inf if self._pass_tokens is None else self._pass_tokens / copies

    def of_own(self, rows: int, bytes_each: int) -> int:
        """Of so many rows, those that fit where each brings tensors of its own; at least one."""
        return max(1, min(rows, self._bytes // max(1, bytes_each)))

    def shrink(self, rows_that_fit: Callable[[], int], too_many: int) -> None:
        """Halves itself until fewer than ``too_many`` rows (at least two) fit, and says so."""
        while rows_that_fit() >= too_many:
            self._bytes //= 2
            if self._tokens is not None:
                self._tokens //= 2
        logger.warning("out of memory: going on with smaller batches (%d rows)", rows_that_fit())


#: How it is told: on a CPU, on Windows, by CUDA, and by cuBLAS and cuDNN.
_NO_ROOM = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    # torch has no class for the CPU's failure, and none for those of CUDA's own libraries.
    return isinstance(error, torch.OutOfMemoryError) or any(told in str(error) for told in _NO_ROOM)


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
            limit.shrink(rows_that_fit, size)
            continue
        start += size


def split_when_too_large(
    pack: list[int],
    rows_that_fit: Callable[[], int],
    limit: MemoryLimit,
    work: Callable[[list[int]], None],
) -> None:
    """Runs ``work`` on a pack, or on its halves where not even one candidate's rows fit.

    Raises:
        OutOfMemoryError: A single row does not fit.
    """
    try:
        work(pack)
        return
    except OutOfMemoryError:
        if len(pack) == 1:
            raise
    # Outside the handler, whose traceback would keep the failed pass's tensors alive.
    limit.shrink(rows_that_fit, len(pack))
    for half in (pack[: len(pack) // 2], pack[len(pack) // 2 :]):
        split_when_too_large(half, rows_that_fit, limit, work)


def packs_by_length(
    lengths: Sequence[tuple[int, ...]], most: int | None = None, padding: float = math.inf
) -> list[list[int]]:
    """Groups indices so that every length in a group is close to the group's longest.

    Args:
        lengths: One tuple of lengths per item; each is padded to its group's maximum. The last one
            is what the model computes.
        most: Largest group.
        padding: Tokens that a group may compute on padding at most.
    """
    packs: list[_Pack] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        length = lengths[index]
        full = not packs or (most is not None and len(packs[-1].members) >= most)
        if full or not packs[-1].takes(length, padding):
            packs.append(_Pack(length))
        packs[-1].add(index, length)
    return [pack.members for pack in packs]


def packs_of_equal_length(lengths: Sequence[tuple[int, ...]], most: int) -> list[list[int]]:
    """Groups indices of the same lengths, so that nothing is padded.

    Args:
        lengths: One tuple of lengths per item.
        most: Largest group.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, length in enumerate(lengths):
        alike.setdefault(length, []).append(index)
    return [
        members[start : start + most]
        for _, members in sorted(alike.items())
        for start in range(0, len(members), most)
    ]


class _Pack:
    """A group in the making.

    Args:
        length: That of its first member, which is still to be added.
    """

    def __init__(self, length: tuple[int, ...]) -> None:
        self.members: list[int] = []
        self._least = self._most = length
        self._computed = 0

    def takes(self, length: tuple[int, ...], padding: float) -> bool:
        """Whether another of this length is close enough to all that are in it."""
        least, most = self._with(length)
        close = all(high <= LENGTH_SLACK * low + 4 for low, high in zip(least, most, strict=True))
        count, computed = len(self.members) + 1, self._computed + length[-1]
        return close and most[-1] * count - computed <= padding

    def add(self, index: int, length: tuple[int, ...]) -> None:
        """Takes it in."""
        self._least, self._most = self._with(length)
        self._computed += length[-1]
        self.members.append(index)

    def _with(self, length: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The least and the most of every length, this one among them."""
        return tuple(map(min, self._least, length)), tuple(map(max, self._most, length))
