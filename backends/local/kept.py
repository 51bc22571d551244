"""What outlives a request: what rows are, as far as that is the same for all candidates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar


class _Sized(Protocol):
    """Anything that knows how much memory it holds."""

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


class Kept:
    """Values that were made once and are kept for the whole run, the oldest dropped first.

    Args:
        limit_bytes: The most that all of them may hold.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Memory that the kept values hold."""
        return self._held

    def clear(self) -> None:
        """Drops everything."""
        self._values.clear()
        self._held = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key; made, and kept unless it alone is over the limit, where it is new."""
        if key in self._values:
            self._values.move_to_end(key)
            known: T = self._values[key]
            return known
        value = make()
        if value.nbytes <= self._limit:
            self._values[key] = value
            self._held += value.nbytes
        while self._held > self._limit:
            _, dropped = self._values.popitem(last=False)
            self._held -= dropped.nbytes
        return value
