"""What is sent, what comes back, and through what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Posts(Protocol):
    """What a :class:`Sender` needs of a transport."""

    @property
    def base_url(self) -> str:
        """Where it sends to, for messages."""
        ...

    def excerpt(self, text: str) -> str:
        """Both ends of ``text`` in a form fit for a message, without the key."""
        ...

    def tidy(self, text: str) -> str:
        """``text`` in a form fit for a message, without the key."""
        ...

    async def post(self, path: str, body: bytes) -> Any:
        """One attempt; raises ``Transient`` or a lasting error."""
        ...


@dataclass(frozen=True)
class Job(Generic[T]):
    """One request, and how its reply is read.

    Attributes:
        path: As :meth:`Transport.post` takes it.
        body: Makes the body; called for each attempt, when it is sent.
        read: Makes the value of the reply's JSON; raises ``BrokenReply`` if it is not sound.
        queries: How many queries it would be billed as.
        tokens: Its prompt tokens, for the rate limit.
        words: The text that it asks about, where it is one, told where the server refuses it.
        withheld: The value where the provider's content filter stops the text; takes what the
            server said. Without it, that is an error.
        apart: Jobs that ask the same in its place, each about one text, where it asks about several
            and the filter stops them together, or one of them is too long.
        shorter: A job that asks about less of the text in its place, where the server says that it
            is too long; it may find that nothing is left.
    """

    path: str
    body: Callable[[], bytes]
    read: Callable[[Any], T]
    queries: int
    tokens: int
    words: Callable[[], str] | None = None
    withheld: Callable[[str], T] | None = None
    apart: Callable[[], Sequence[Job[T]]] | None = None
    shorter: Callable[[], Job[T] | None] | None = None


@dataclass(frozen=True)
class Answered(Generic[T]):
    """A job with its value.

    Attributes:
        job: The job.
        value: What ``job.read`` made of the reply.
        lost: Queries of it that were sent before and lost.
        seconds: How long the attempt took that succeeded.
    """

    job: Job[T]
    value: T
    lost: int
    seconds: float
