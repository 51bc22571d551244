"""One server, ready to be asked from plain code: key, connections, flow control, event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from blackbox_delta.backends.remote.endpoint import Endpoint
from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.http.loop import LoopThread
from blackbox_delta.backends.remote.http.secrets import read_key
from blackbox_delta.backends.remote.http.sender import Sender
from blackbox_delta.backends.remote.http.transport import Transport
from blackbox_delta.backends.remote.keys import KeySource
from blackbox_delta.backends.remote.wires.offers import Preset
from blackbox_delta.errors import AuthorisationError, tell_lost

T = TypeVar("T")


class Connection:
    """A server behind an endpoint.

    Args:
        endpoint: Where it is, and how much may be asked of it.
        preset: What kind of server it is.
        attempts: How often a request is tried in all.
        saved: Whether a file names the server, and not the user: see :class:`KeySource`.

    Raises:
        ConfigError: The URL makes no sense, or the key would be exposed.
        AuthorisationError: The key is not where it should be.
    """

    def __init__(
        self, endpoint: Endpoint, preset: Preset, *, attempts: int = 8, saved: bool = False
    ) -> None:
        source = (KeySource.of_saved if saved else KeySource.of)(endpoint, preset)
        self._kept_back = source.kept_back
        self._transport = Transport(
            endpoint.base_url,
            secret=read_key(source.env, source.file),
            auth_header=preset.auth_header,
            auth_scheme=preset.auth_scheme,
            query=preset.query,
            timeout=endpoint.timeout,
            connections=endpoint.concurrency,
        )
        self._sender = Sender(
            self._transport,
            concurrency=endpoint.concurrency,
            requests_per_minute=endpoint.requests_per_minute,
            tokens_per_minute=endpoint.tokens_per_minute,
            attempts=attempts,
            # Only waiting times depend on it, never a result.
            rng=np.random.Generator(np.random.PCG64(0)),
        )
        self._loop = LoopThread()
        self._closed = False

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return self._transport.base_url

    def tidy(self, text: str) -> str:
        """``text`` in a form fit for a message, without the key."""
        return self._transport.tidy(text)

    def excerpt(self, text: str) -> str:
        """Both ends of ``text`` in a form fit for a message, without the key."""
        return self._transport.excerpt(text)

    def get(self, path: str) -> Any:
        """The JSON that a GET answers; nothing is billed for it, so it is no job.

        Raises:
            RemoteError: There is none, however often it was asked for.
        """
        return self._fetch(lambda: self._transport.get(path))

    def get_text(self, path: str) -> str:
        """The text that a GET answers; raises what :meth:`get` does."""
        return str(self._fetch(lambda: self._transport.get_text(path)))

    def post(self, path: str, body: bytes) -> Any:
        """The JSON that a POST answers which costs nothing; raises what :meth:`get` does."""
        return self._fetch(lambda: self._transport.post(path, body))

    def send(
        self,
        jobs: Iterable[Job[T]],
        on_answer: Callable[[Answered[T]], None],
        max_sent: int | None = None,
    ) -> int:
        """Sends all jobs; see :meth:`Sender.send_all`. Returns how many queries were lost.

        Whatever is raised, ``KeyboardInterrupt`` too, tells by :func:`errors.take_lost` how many
        queries were sent that no answer tells of.
        """
        unanswered = 0

        def keep(queries: int) -> None:
            nonlocal unanswered
            unanswered = queries

        async def sending() -> int:
            return await self._sender.send_all(jobs, on_answer, max_sent=max_sent, on_end=keep)

        try:
            with self._explained():
                return self._loop.run(sending)
        except BaseException as error:
            tell_lost(error, unanswered)
            raise

    def close(self) -> None:
        """Closes the connections and ends the loop."""
        if not self._closed:
            self._closed = True
            if not self._loop.closed:
                self._loop.run(self._transport.aclose)
                self._loop.close()

    def _fetch(self, fetching: Callable[[], Awaitable[Any]]) -> Any:
        with self._explained():
            return self._loop.run(lambda: self._sender.fetch(fetching))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tells a user whom the server turns away of the key that was kept back."""
        try:
            yield
        except AuthorisationError as error:
            if not self._kept_back:
                raise
            raise AuthorisationError(f"{error}: {self._kept_back}") from None
