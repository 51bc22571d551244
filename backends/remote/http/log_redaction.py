"""Keeps the key out of what the HTTP libraries log: at DEBUG they show all that a server sends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from blackbox_delta.backends.remote.http.secrets import Secret, redact

#: The loggers by whose name they log; a filter does not reach the loggers below it.
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_SENT: ContextVar[Secret | None] = ContextVar("sent", default=None)


class _Redaction(logging.Filter):
    """Masks the key in records that are made while it is sent; leaves all others alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        secret = _SENT.get()
        if secret is not None:
            record.msg, record.args = redact(record.getMessage(), secret), None
        return True


_REDACTION = _Redaction()


def watch_logs() -> None:
    """Puts the filter in place; again does nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_REDACTION)


@contextmanager
def redacted_logs(secret: Secret | None) -> Iterator[None]:
    """While inside, nothing that this task logs through those libraries shows ``secret``."""
    token = _SENT.set(secret)
    try:
        yield
    finally:
        _SENT.reset(token)
