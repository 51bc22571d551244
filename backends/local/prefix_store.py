"""Keys and values that outlive a request."""

from __future__ import annotations

from collections import OrderedDict

from blackbox_delta.backends.local.attention import PrefixCache


class PrefixStore:
    """Keys and values of packs of prefixes, kept for the whole run, the oldest dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._packs: OrderedDict[tuple[bytes, ...], PrefixCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._packs)

    @property
    def nbytes(self) -> int:
        """Memory that the kept packs hold."""
        return self._held

    def clear(self) -> None:
        """Drops everything."""
        self._packs.clear()
        self._held = 0

    def get(self, key: tuple[bytes, ...]) -> PrefixCache | None:
        """The pack made of these prefixes, if it is still there."""
        if key in self._packs:
            self._packs.move_to_end(key)
        return self._packs.get(key)

    def put(self, key: tuple[bytes, ...], pack: PrefixCache) -> None:
        """Keeps a pack, unless it alone is over the limit."""
        if pack.nbytes > self._limit or key in self._packs:
            return
        self._packs[key] = pack
        self._held += pack.nbytes
        while self._held > self._limit:
            _, dropped = self._packs.popitem(last=False)
            self._held -= dropped.nbytes
