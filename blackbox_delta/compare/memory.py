"""The most memory that the process holds while something runs."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Self

from blackbox_delta.errors import MissingExtraError

_EVERY = 0.05  # seconds


class PeakMemory:
    """Looks at the memory in use, 20 times a second, from entering to leaving.

    The system's own record of the peak cannot be set back, and would tell of an earlier cell.

    Args:
        resident: Bytes in use now; ``None`` for what the system says of this process.

    Attributes:
        bytes: The most that was seen.

    Raises:
        MissingExtraError: ``psutil`` is not installed.
    """

    def __init__(self, resident: Callable[[], int] | None = None) -> None:
        self._resident = resident or _resident()
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._resident())


def _resident() -> Callable[[], int]:
    try:
        import psutil
    except ModuleNotFoundError:
        raise MissingExtraError("psutil", "compare", "measuring memory") from None
    process = psutil.Process()
    return lambda: int(process.memory_info().rss)
