"""Where a server is, and where a key may go."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import httpx

from blackbox_delta.backends.remote.http.secrets import Secret
from blackbox_delta.errors import ConfigError

_EXAMPLE = "write it like https://api.example.com/v1 or http://127.0.0.1:8000/v1"
_PORTS = range(1, 1 << 16)
_ENDPOINTS = ("/chat/completions", "/completions", "/models")
#: Query parameters that carry keys.
_KEY_PARAMETERS = frozenset(
    {"key", "api_key", "api-key", "apikey", "token", "access_token", "sig", "signature"}
)


def parse_base_url(text: str) -> httpx.URL:
    """The URL that paths are appended to; its own path ends in a slash.

    Raises:
        ConfigError: It is no plain http(s) URL. The message never shows a part that could hold
            a password or a key.
    """
    url = read_url(text.strip())
    if url is None:
        raise ConfigError(f"the base URL cannot be read; {_EXAMPLE}")
    if "@" in text:
        raise ConfigError(f"the base URL holds a user name or password; {_EXAMPLE}")
    if "?" in text or "#" in text:
        raise ConfigError(f"the base URL must end with its path, without '?' or '#'; {_EXAMPLE}")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the base URL is no http or https URL; {_EXAMPLE}")
    path = url.path.rstrip("/")
    for endpoint in _ENDPOINTS:
        if path.endswith(endpoint):
            shorter = str(url.copy_with(path=path.removesuffix(endpoint)))
            raise ConfigError(f"the base URL stops before '{endpoint}': write {shorter}")
    return url.copy_with(path=path + "/")


def read_url(text: str, base: httpx.URL | None = None) -> httpx.URL | None:
    """The URL, or where it leads to from ``base``; ``None`` if nothing can be sent there."""
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        # A host in bad punycode is found when it is read; a port outside the range is not.
        _ = url.host
    # Not all that is wrong with hosts and characters is said with httpx's own error.
    except (httpx.InvalidURL, ValueError):
        return None
    return url if url.port is None or url.port in _PORTS else None


def check_key_goes_safely(url: httpx.URL, secret: Secret | None, query: Mapping[str, str]) -> None:
    """Refuses settings under which a key would be readable on the wire, in URLs or in logs.

    Raises:
        ConfigError: Plain http to another machine with a key, or a key outside its header.
    """
    if secret is not None and url.scheme == "http" and not is_loopback(url.host):
        raise ConfigError(
            f"the API key would travel unencrypted to {url.host}; use https, or a tunnel that "
            "ends at 127.0.0.1"
        )
    for name, value in query.items():
        held = secret is not None and secret.reveal() in value
        if name.lower() in _KEY_PARAMETERS or held:
            raise ConfigError(
                f"the query parameter '{name}' would carry a key; give the key through an "
                "environment variable or a file instead"
            )
        if not (name + value).isascii() or not (name + value).isprintable():
            raise ConfigError(f"the query parameter '{name}' may hold printable ASCII only")


def is_loopback(host: str) -> bool:
    """Whether what is sent to ``host`` stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether both name the same scheme, host and port."""
    return _origin(one) == _origin(other)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
