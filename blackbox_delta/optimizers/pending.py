"""Finds again what an optimizer keeps about a candidate that has been asked and not told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

from blackbox_delta.errors import ConfigError

if TYPE_CHECKING:
    from blackbox_delta.types import Vector

T = TypeVar("T")


class Pending(Generic[T]):
    """Items filed under the exact bytes of a candidate (d,); equal candidates queue up."""

    def __init__(self) -> None:
        self._items: dict[bytes, list[T]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._items.values())

    def add(self, candidate: Vector, item: T) -> None:
        """Files ``item`` under ``candidate``."""
        self._items.setdefault(candidate.tobytes(), []).append(item)

    def take(self, candidates: Vector) -> list[T]:
        """Removes and returns the items filed first under candidates (n, d), all or none.

        Raises:
            ConfigError: One has none.
        """
        keys = [candidate.tobytes() for candidate in candidates]
        if any(len(self._items.get(key, ())) < count for key, count in Counter(keys).items()):
            raise ConfigError(
                "The optimizer was told the loss of a candidate that it was not asked for, or "
                "the loss of one candidate twice."
            )
        return [self._take(key) for key in keys]

    def _take(self, key: bytes) -> T:
        queue = self._items[key]
        item = queue.pop(0)
        if not queue:
            del self._items[key]
        return item
