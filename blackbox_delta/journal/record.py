"""One paid reply as a row of the journal: whole and checked, or not readable at all."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from blackbox_delta.types import FloatArray, IntArray, Usage

# Every field of Usage and its type; each is a column, so a change there is a new format.
COSTS: dict[str, type[int] | type[float]] = {
    field.name: type(getattr(Usage(), field.name)) for field in fields(Usage)
}
_SQL = {int: "INTEGER", float: "REAL"}

COLUMNS = ("key", "reply", "purpose", "cached", *COSTS)
TABLE = (
    "CREATE TABLE replies (key BLOB PRIMARY KEY, reply BLOB NOT NULL, purpose TEXT NOT NULL, "
    "cached INTEGER NOT NULL, "
    + ", ".join(f"{name} {_SQL[kind]} NOT NULL" for name, kind in COSTS.items())
    + ")"  # with row ids: else every reply with top tokens would take overflow pages of its own
)

_HEAD = struct.Struct("<II")  # c choices, k top tokens
_COST = struct.Struct("<q" + "".join({int: "q", float: "d"}[kind] for kind in COSTS.values()))
_CHECK = struct.Struct("<I")
_TYPES = [bytes, bytes, str, int, *COSTS.values()]


@dataclass(frozen=True)
class Record:
    """A reply to one (candidate, prompt) pair, what it cost and what it was for.

    Attributes:
        label_logprobs: (c,) float32.
        top_ids: (k,) int64.
        top_logprobs: (k,) float32.
        usage: What the pair cost, or its share of what the request cost.
        purpose: :attr:`ScoreRequest.purpose` of the request that it was paid for.
        cached: Whether another run paid for it, and a shared cache handed it on.
    """

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    usage: Usage
    purpose: str = ""
    cached: bool = False

    @classmethod
    def loss(cls, usage: Usage, purpose: str) -> Record:
        """No reply: what queries cost that were sent in vain before their request ended."""
        numbers = np.empty(0, dtype=np.float32)
        return cls(numbers, np.empty(0, dtype=np.int64), numbers, usage, purpose)

    def to_row(self, key: bytes) -> tuple[Any, ...]:
        """A row of the table, whose check covers all of it."""
        body = b"".join(
            (
                _HEAD.pack(len(self.label_logprobs), len(self.top_ids)),
                np.asarray(self.label_logprobs, "<f4").tobytes(),
                np.asarray(self.top_ids, "<i4").tobytes(),
                np.asarray(self.top_logprobs, "<f4").tobytes(),
            )
        )
        costs = (int(self.cached), *(getattr(self.usage, name) for name in COSTS))
        check = _checksum(key, body, self.purpose, costs)
        return (key, body + check, self.purpose, *costs)

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Record:
        """Reads a row back.

        Raises:
            ValueError: A single byte of it is not what was written.
        """
        if [type(value) for value in row] != _TYPES:
            raise ValueError("a column has another type")
        key, reply, purpose, *costs = row
        body, check = reply[: -_CHECK.size], reply[-_CHECK.size :]
        if len(body) < _HEAD.size or check != _checksum(key, body, purpose, costs):
            raise ValueError("its checksum is wrong")
        choices, top = _HEAD.unpack_from(body)
        if len(body) != _HEAD.size + 4 * choices + 8 * top:
            raise ValueError("its length is wrong")
        ids_at = _HEAD.size + 4 * choices
        return cls(
            np.frombuffer(body, "<f4", choices, _HEAD.size),
            np.frombuffer(body, "<i4", top, ids_at).astype(np.int64),
            np.frombuffer(body, "<f4", top, ids_at + 4 * top),
            Usage(*costs[1:]),
            purpose,
            bool(costs[0]),
        )


def _checksum(key: bytes, body: bytes, purpose: str, costs: Sequence[float]) -> bytes:
    return _CHECK.pack(zlib.crc32(key + body + purpose.encode() + _COST.pack(*costs)))
