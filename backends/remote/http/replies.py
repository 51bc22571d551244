"""What a server's reply means before anybody reads what it says: status, waits, JSON or not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from blackbox_delta.backends.remote.http.failures import (
    Lost,
    Refused,
    TooLongError,
    WithheldError,
)
from blackbox_delta.backends.remote.http.secrets import Secret, redact
from blackbox_delta.errors import AuthorisationError, RejectedError, RemoteError

_LONGEST_WAIT = 300.0
#: Replies by which a server gave up on a request that it may have worked on.
_GAVE_UP = frozenset({408, 409})
_OVERLOADED = frozenset({429, 503, 529})
#: Replies that say: this is not done here. (501 is llama.cpp's, where it runs without something.)
_REJECTED = frozenset({400, 404, 405, 413, 415, 422, 501})
#: Replies by which a content filter may stop a text.
_WITHHELD = frozenset({400, 403, 422})
#: What it says then.
_FLAGGED = re.compile(
    r"content[ _-](management[ _-])?(policy|policies|filter)"
    r"|(input|prompt|content|text|message|request)s? (is|was|were|has been|have been) flagged"
    r"|flagged[ _](input|prompt|content|text)",
    re.IGNORECASE,
)
#: Said with a 403, it is the text that is not accepted, and not the key. (A 400 may quote a text.)
_MODERATED = re.compile("moderat", re.IGNORECASE)
#: What servers say of a text that does not fit, with a status by which they reject it.
_TOO_LONG = re.compile(
    r"context[ _-](length|size|window)|maximum (model|input) length|(prompt|input) is too long"
    r"|input token count|exceeds the maximum (allowed length|number of tokens)"
    r"|`inputs` (tokens \+|must have less than)",
    re.IGNORECASE,
)
_HINTS = {
    402: "the account has no credit left",
    404: "check the model's name and the base URL",
    405: "check the base URL",
    413: "send less in a request",
}


def tidy(text: str, secret: Secret | None, longest: int) -> str:
    """``text`` on one line, without the key and without anything that steers a terminal."""
    # The key goes first: cut in two by the shortening, it would not be recognised.
    shown = redact(text, secret)
    words = "".join(one if one.isprintable() else " " for one in shown).split()
    line = " ".join(words)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def failure(
    status: int, headers: Mapping[str, str], body: bytes, secret: Secret | None, where: str
) -> Exception:
    """The error that a reply outside 2xx stands for.

    Args:
        status: The HTTP status.
        headers: Its headers, names in lower case or case-insensitive.
        body: What was read of the body, perhaps nothing.
        secret: The key, kept out of the message.
        where: The URL, for the message.
    """
    words, code = _server_message(body)
    return _stands_for(status, code, _reason(f"HTTP {status}", words, secret), headers, where)


def failure_within(reply: Any, secret: Secret | None, where: str) -> Exception | None:
    """The error that a reply with status 2xx stands for, if it holds one with a status of its own.

    Gateways answer so where the provider behind them fails: ``{"error": {"code": 402, …}}``. One
    that also holds an answer may be billed, and is left to whoever reads that.

    Args:
        reply: Its JSON.
        secret: The key, kept out of the message.
        where: The URL, for the message.
    """
    error = reply.get("error") if isinstance(reply, dict) else None
    status = error.get("code") if isinstance(error, dict) else None
    if type(status) is not int or not 400 <= status < 600 or reply.get("choices"):
        return None
    words, code = said_by(error)
    return _stands_for(status, code, _reason(f"error {status}", words, secret), {}, where)


def _reason(name: str, words: str, secret: Secret | None) -> str:
    said = tidy(words, secret, 300)
    return f"{name}: {said}" if said else name


def _stands_for(
    status: int, code: str, reason: str, headers: Mapping[str, str], where: str
) -> Exception:
    if _is_withheld(status, f"{code} {reason}"):
        return WithheldError(f"{where} refuses the request ({reason})", reason)
    if status in (401, 403):
        return AuthorisationError(
            f"{where} does not accept the API key, or needs one ({reason}); "
            "check the key and what it may be used for"
        )
    if status in _OVERLOADED and code != "insufficient_quota":
        return Refused(reason, retry_after(headers))
    if status in _GAVE_UP or (status >= 500 and status not in _REJECTED):
        return Lost(reason, crowded=status == 504)
    hint = _HINTS.get(status)
    kind = RejectedError if status in _REJECTED else RemoteError
    if kind is RejectedError and _TOO_LONG.search(f"{code} {reason}"):
        kind = TooLongError
    return kind(f"{where} refuses the request ({reason})" + (f"; {hint}" if hint else ""))


def _is_withheld(status: int, said: str) -> bool:
    """Whether it is the text that the provider does not want."""
    if status not in _WITHHELD:
        return False
    return bool(_FLAGGED.search(said) or (status == 403 and _MODERATED.search(said)))


def parse_json(body: bytes, secret: Secret | None) -> Any:
    """The JSON value in ``body``. Huge exponents may still be infinite: readers must check.

    Raises:
        Lost: It is not JSON, or holds NaN or Infinity.
    """
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        pass
    # Outside the handler, so that no traceback carries the body.
    raise Lost(f"the reply is not JSON but {_describe(body, secret)}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, at most 300; ``None`` where it does not say.

    A date is compared with the reply's own ``Date``, never with this machine's clock.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is None:
        until, now = _date(text), _date(headers.get("date"))
        if until is None or now is None:
            return None
        seconds = (until - now).total_seconds()
    return _bounded(seconds)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if number != number else number


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):  # no date, or one in a year that no machine can count
        return None
    # "-0000" makes a date without a zone, which cannot be subtracted from one with it.
    return date if date.tzinfo else None


def _server_message(body: bytes) -> tuple[str, str]:
    """The server's own words, and the error's code or type, where they can be found."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace"), ""
    return said_by(reply.get("error", reply) if isinstance(reply, dict) else reply)


def said_by(error: Any) -> tuple[str, str]:
    """The words in a server's error, as they came, and its code or type; empty if it has none."""
    if not isinstance(error, dict):
        return str(error or ""), ""
    words = error.get("message") or error.get("detail") or ""
    code = error.get("code")
    return str(words), code if isinstance(code, str) else str(error.get("type") or "")


def _describe(body: bytes, secret: Secret | None) -> str:
    if not body.strip():
        return "empty"
    # More than is shown is searched, so that no key is cut in two before it is found.
    text = tidy(redact(body[:65536].decode("utf-8", "replace"), secret)[:4096], secret, 80)
    start = text.lower()
    kind = "an HTML page" if start.startswith(("<!doctype", "<html")) else "this"
    return f"{kind}: {text}"


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
