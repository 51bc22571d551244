"""Failures that pass: what is worth another attempt, and whether the last one may be billed.

::

    Transient      worth another attempt
    ├── Refused    the server did no work for it: not billed
    └── Lost       it was sent and no usable reply came: may be billed

They stay inside this package. What lasts is raised as
:class:`blackbox_delta.errors.RemoteError` instead; :class:`FailedError`, :class:`TooLongError` and
:class:`WithheldError` are such.
"""

from __future__ import annotations

from typing import Any

from blackbox_delta.errors import RejectedError, RemoteError


class Transient(Exception):  # noqa: N818 - a passing state, not yet an error
    """Worth another attempt.

    Attributes:
        reason: What happened, in a few words, free of secrets.
        crowded: Whether it says that too much was asked at once (refusals and timeouts do).
    """

    def __init__(self, reason: str, *, crowded: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.crowded = crowded


class Refused(Transient):
    """The server turned it away, or could not be reached: nothing was computed.

    Attributes:
        retry_after: Seconds that the server asks to wait; ``None`` where it did not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason, crowded=True)
        self.retry_after = retry_after


class Lost(Transient):
    """It was sent, and no usable reply came back."""

    def __init__(self, reason: str, *, crowded: bool = False) -> None:
        super().__init__(reason, crowded=crowded)


class BrokenReply(ValueError):  # noqa: N818 - as above
    """A JSON reply is not what was asked for: raised by whoever reads it.

    Attributes:
        error: What the server sent in its place, if it said that something is wrong. It may hold
            anything, the key too, so it has no part in the message.
    """

    def __init__(self, message: str, error: Any = None) -> None:
        super().__init__(message)
        self.error = error


class FailedError(RemoteError):
    """One request got no usable reply, however often it was tried; another one may.

    Attributes:
        reason: What happened at last, as in :class:`Transient`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooLongError(RejectedError):
    """The text does not fit the model's context, so that the server did nothing with it."""


class WithheldError(RejectedError):
    """The provider's content filter stopped the text, or what the model said to it.

    The server is well, and answers about other texts. The query may be billed: Azure bills it.

    Attributes:
        reason: What the server said, in a few words, free of secrets.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
