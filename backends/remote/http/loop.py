"""A private event loop in a thread, for plain calls: also where a loop runs already (Jupyter)."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar, TypeVarTuple

import anyio
from anyio.from_thread import BlockingPortal

from blackbox_delta.errors import RemoteError

R = TypeVar("R")
Args = TypeVarTuple("Args")


class LoopThread:
    """Runs asynchronous functions to their end in an event loop of its own.

    The thread ends with :meth:`close`, with the object, or with the interpreter.
    """

    def __init__(self) -> None:
        ready: Future[BlockingPortal] = Future()
        # anyio's own way to start a portal would, in a fork, wait for a thread that is not there.
        thread = threading.Thread(
            target=anyio.run, args=(_serve, ready), name="blackbox-delta-remote", daemon=True
        )
        thread.start()
        self._portal = ready.result()
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._portal, thread, self._process)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the thread stayed behind in a parent process."""
        return not self._end.alive or os.getpid() != self._process

    def run(self, function: Callable[[*Args], Awaitable[R]], *args: *Args) -> R:
        """What ``function(*args)`` returns or raises.

        Ctrl-C while it runs cancels it, waits until it has cleaned up, and raises
        ``KeyboardInterrupt`` here; a second one does not wait.

        Raises:
            RemoteError: The thread was closed, before or meanwhile, or the process was forked.
        """
        if self.closed:
            raise RemoteError("the connection is closed, or another process's; open it again")
        ended = threading.Event()

        async def call() -> R:
            try:
                return await function(*args)
            finally:
                ended.set()

        future = self._portal.start_task_soon(call)
        try:
            return future.result()
        except CancelledError:
            raise RemoteError("the connection was closed while a request was running") from None
        except KeyboardInterrupt:
            future.cancel()
            ended.wait()
            raise

    def close(self) -> None:
        """Cancels what runs and ends the thread; again does nothing."""
        self._end()


async def _serve(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def _end(portal: BlockingPortal, thread: threading.Thread, process: int) -> None:
    if os.getpid() != process:
        return  # a fork has no such thread
    if threading.current_thread() is thread:
        # The garbage collector may run in any thread, and a thread cannot wait for itself.
        threading.Thread(target=_end, args=(portal, thread, process), daemon=True).start()
        return
    portal.call(portal.stop, True)
    thread.join()
