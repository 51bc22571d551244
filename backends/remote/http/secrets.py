"""API keys: where they come from, and how they stay out of everything that is shown or stored."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, quote_plus

from blackbox_delta.errors import AuthorisationError, ConfigError

_MASK = "[key]"
_MAX_BYTES = 64 * 1024
#: What variables are called, by a custom that few keys follow: digits come with an underscore.
_NAME = re.compile(r"(?=[^0-9]*$|.*_)[A-Z_][A-Z0-9_]*")


class Secret:
    """An API key. Printing, formatting, copying and pickling it never show the key.

    Args:
        key: Printable ASCII without blanks; those around it are dropped.

    Raises:
        ConfigError: It is empty or holds blanks, control or non-ASCII characters.
    """

    __slots__ = ("_reveal",)

    def __init__(self, key: str) -> None:
        key = key.strip()
        if not key:
            raise ConfigError("the API key is empty")
        if not all("!" <= character <= "~" for character in key):
            raise ConfigError(
                "the API key holds a blank, a control character or one outside ASCII; "
                "it must be the bare key on one line"
            )
        # A closure, so that tools which list an object's attributes find only a function.
        self._reveal: Callable[[], str] = lambda: key

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._reveal()

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an API key is never copied, pickled or sent to another process")


def redact(text: str, secret: Secret | None) -> str:
    """``text`` with a mask wherever the key stands, percent-encoded and in base64 as well."""
    if secret is None:
        return text
    forms = sorted(_forms(secret.reveal()), key=len, reverse=True)
    return re.sub("|".join(re.escape(form) for form in forms), _MASK, text)


def _forms(key: str) -> set[str]:
    encoded = {quote(key, safe=""), quote_plus(key), quote(key)}
    lower = {re.sub("%[0-9A-F]{2}", lambda hit: hit[0].lower(), form) for form in encoded}
    escaped = {json.dumps(key)[1:-1], repr(key)[1:-1]}
    return {key} | encoded | lower | escaped | _base64_forms(key.encode())


def _base64_forms(key: bytes) -> set[str]:
    """The key in base64, alone and inside something longer (``user:key``, ``Bearer key``)."""
    alone = {base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()}
    forms = alone | {form.rstrip("=") for form in alone}
    for before in range(3):
        # Only characters that hold nothing but bits of the key are the same in any surroundings.
        first, last = -(-before * 8 // 6), (before + len(key)) * 8 // 6
        padded = bytes(before) + key + bytes(3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(padded).decode()[first:last])
    # A handful of characters would hit innocent words.
    return {form for form in forms if len(form) >= 8} | alone


def read_key(env: str | None, file: Path | None) -> Secret | None:
    """The API key from an environment variable or a file; ``None`` if neither is named.

    Args:
        env: Name of the environment variable.
        file: A file that only its owner may read and that holds nothing but the key.

    Raises:
        AuthorisationError: The variable is not set or empty.
        ConfigError: Both are named, the file cannot be used, what they hold is no key, or what
            should name the variable may be a key.
    """
    if env is not None and file is not None:
        raise ConfigError("name one source of the API key: a variable or a file, not both")
    if env is not None:
        return _from_environment(env)
    return None if file is None else _from_file(file)


def _from_environment(name: str) -> Secret:
    if os.environ.get(name, "").strip():
        return _checked(_tried(os.environ[name]), f"the environment variable {name}")
    if not _NAME.fullmatch(name):
        # What stands there instead may be the key itself.
        raise ConfigError(
            "--key-env (in Python key_env) wants the name of an environment variable, such as "
            "MY_API_KEY, and what it was given is none that is set; never give the key itself"
        )
    raise AuthorisationError(
        f"the environment variable {name}, which should hold the API key, is not set; "
        f"set it, e.g. with: read -rs {name} && export {name}"
    )


def _from_file(path: Path) -> Secret:
    try:
        found = _tried(_read_private(path).decode("ascii", "replace"))
    except OSError as error:
        if path.is_absolute() or path.exists():
            raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from None
        # What stands there instead may be the key itself.
        raise ConfigError(
            "--key-file (in Python key_file) wants the path of a file that holds the key, and "
            "what it was given is no file here; never give the key itself"
        ) from None
    return _checked(found, f"the key file {path}")


def _read_private(path: Path) -> bytes:
    # Checked on the open file, so that it cannot be swapped in between; a pipe must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the key file {path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise ConfigError(f"the key file {path} belongs to another user; make a copy of it")
        if status.st_mode & 0o077:
            raise ConfigError(f"others may read the key file {path}; run: chmod 600 {path}")
        return file.read(_MAX_BYTES)


def _tried(key: str) -> Secret | str:
    """The secret, or what is wrong with it: no frame that raises an error may hold the key."""
    try:
        return Secret(key)
    except ConfigError as error:
        return str(error)


def _checked(found: Secret | str, origin: str) -> Secret:
    if isinstance(found, str):
        raise ConfigError(f"{origin}: {found}")
    return found
