"""Commands that are told to stop: one sentence, and an exit code that says who told them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console

#: What ends a process politely beside Ctrl-C: ``kill``, a container or a batch system that stops
#: it, and a terminal that is closed.
_POLITE = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)
#: Seconds within which being told again is the same telling: a key that is held, or a shell that
#: passes on what the terminal has sent as well. It must not break off what books the first.
_ECHO = 1.0


class _Told(KeyboardInterrupt):
    """Any of them, so that what is under way is cleaned up and booked the same way.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable(advice: str, err: Console) -> Iterator[None]:
    """Makes an interruption a sentence and the exit code 128 + the signal's number, 130 for Ctrl-C.

    Args:
        advice: What can be done then, the sentence's second half.
        err: Where it is said.
    """
    from blackbox_delta.display import say

    with _listening():
        try:
            yield
        except KeyboardInterrupt as told:
            say(err, f"Stopped; {advice}.")
            number = told.number if isinstance(told, _Told) else signal.SIGINT
            raise typer.Exit(128 + number) from None


@contextmanager
def _listening() -> Iterator[None]:
    """Interrupted once, unless somebody has decided otherwise (``nohup``, an embedder)."""
    told_at = -_ECHO

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _ECHO:
            told_at = time.monotonic()
            raise _Told(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the main thread to handle
        return
    heard = {each: signal.getsignal(each) for each in [signal.SIGINT, *_POLITE]}
    taken = {each: handler for each, handler in heard.items() if handler in _UNTOUCHED}
    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in taken.items():
            signal.signal(each, handler)
