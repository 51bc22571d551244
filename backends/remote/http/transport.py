"""One attempt at one request: JSON or text comes back, or one of this package's errors.

Nothing of httpx leaves this module. Its exceptions know the request, and the request knows the
key, so errors are raised outside the handlers that caught them: they chain to nothing.
"""

from __future__ import annotations

import os
import ssl
import zlib
from collections.abc import AsyncIterable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import anyio
import httpx

from blackbox_delta.backends.remote.http.address import (
    check_key_goes_safely,
    is_loopback,
    parse_base_url,
    read_url,
    same_origin,
)
from blackbox_delta.backends.remote.http.failures import Lost, Refused
from blackbox_delta.backends.remote.http.log_redaction import redacted_logs, watch_logs
from blackbox_delta.backends.remote.http.replies import failure, failure_within, parse_json, tidy
from blackbox_delta.backends.remote.http.secrets import Secret
from blackbox_delta.errors import ConfigError, RemoteError

_CONNECT_SECONDS = 10.0
# Below the five seconds after which uvicorn hangs up: a connection that dies as it is used again
# looks like a lost query.
_KEEP_ALIVE_SECONDS = 4.0
_ERROR_BYTES = 64 * 1024
_ERROR_SECONDS = 5.0
_MOST_REDIRECTS = 3
#: What httpx takes from the environment.
_CERTIFICATES: tuple[str, ...] = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
#: Characters of a refused text that a message shows of either end.
_SHOWN = 60
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Transport:
    """Requests to one server over kept connections, from within one event loop.

    Paths such as ``"completions"`` are appended to the base URL; those with a leading slash,
    such as ``"/metrics"``, count from the root of the host.

    Args:
        base_url: Such as ``https://api.example.com/v1``.
        secret: The API key, sent with every request to this origin and never to another.
        auth_header: The header that carries it.
        auth_scheme: The word before it; empty for none.
        query: Parameters added to every URL.
        timeout: Seconds for a whole request; at most half of them, and ten, for connecting.
        max_bytes: The largest reply that is read, decompressed.
        connections: The most connections at once.
        transport: Stands in for the network in tests.

    Raises:
        ConfigError: The URL makes no sense, or the key would be exposed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        secret: Secret | None,
        auth_header: str = "Authorization",
        auth_scheme: str = "Bearer",
        query: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        max_bytes: int = 64 * 1024 * 1024,
        connections: int = 64,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base = parse_base_url(base_url)
        check_key_goes_safely(self._base, secret, query or {})
        if not timeout > 0:
            raise ConfigError(f"the timeout must be more than 0 seconds, not {timeout}")
        self._secret, self._timeout, self._max_bytes = secret, timeout, max_bytes
        self._reached = False
        watch_logs()
        limits = httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        auth = _KeyAuth(self._base, secret, auth_header, auth_scheme) if secret else None
        with _surroundings():
            if transport is None and is_loopback(self._base.host):
                # Never through a proxy, which would be another machine.
                transport = httpx.AsyncHTTPTransport(limits=limits)
            self._client = httpx.AsyncClient(
                auth=auth,
                params=dict(query or {}),
                # Only what is decompressed here, under a limit.
                headers={"User-Agent": "blackbox-delta", "Accept-Encoding": "gzip"},
                timeout=httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout / 2)),
                follow_redirects=False,
                limits=limits,
                transport=transport,
            )

    @property
    def base_url(self) -> str:
        """Where requests go, without a slash at the end."""
        return str(self._base).rstrip("/")

    def tidy(self, text: str) -> str:
        """``text`` shortened, on one line, and without the key."""
        return tidy(text, self._secret, 300)

    def excerpt(self, text: str) -> str:
        """Both ends of ``text``, without the key: demonstrations come first, the question last."""
        # Tidied before it is cut: half a key would not be recognised.
        line = tidy(text, self._secret, len(text))
        return line if len(line) <= 2 * _SHOWN else f"{line[:_SHOWN]} … {line[-_SHOWN:]}"

    async def get(self, path: str) -> Any:
        """The JSON that a GET answers.

        Raises:
            Transient: Worth another attempt.
            RemoteError: Another attempt would end the same.
        """
        return await self._json("GET", path, None)

    async def post(self, path: str, body: bytes) -> Any:
        """The JSON that a POST of the JSON ``body`` answers; raises what :meth:`get` does."""
        return await self._json("POST", path, body)

    async def get_text(self, path: str) -> str:
        """The text that a GET answers, e.g. metrics; raises what :meth:`get` does."""
        return (await self._fetch("GET", path, None)).decode("utf-8", "replace")

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _json(self, method: str, path: str, body: bytes | None) -> Any:
        reply = parse_json(await self._fetch(method, path, body), self._secret)
        where = str(self._url(path).copy_with(query=None))
        problem = failure_within(reply, self._secret, where)
        if problem is None:
            return reply
        # No frame of the traceback may hold what the server may have put the key in.
        del reply
        raise problem

    def _url(self, path: str) -> httpx.URL:
        # The dot and the single slash keep a path from naming a scheme or another host.
        return self._base.join("/" + path.lstrip("/") if path.startswith("/") else "./" + path)

    async def _fetch(self, method: str, path: str, body: bytes | None) -> bytes:
        url = self._url(path)
        problem: Exception
        try:
            with anyio.fail_after(self._timeout), redacted_logs(self._secret):
                return await self._follow(method, url, body)
        except RemoteError as error:
            # Without the frames that hold the response, in which the server may have put the key.
            problem = error.with_traceback(None)
        except TimeoutError:
            problem = Lost(f"no complete reply within {self._timeout:g} s", crowded=True)
        except httpx.TransportError as error:
            problem = self._explain(error)
        except UnicodeError:
            # httpx reads where a redirect leads even where it is not to follow.
            problem = RemoteError(
                f"{self.base_url} redirects to another server, whose name cannot be read; check "
                "the base URL"
            )
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            problem = Lost(f"the exchange broke down: {type(error).__name__}")
        raise problem

    async def _follow(self, method: str, url: httpx.URL, body: bytes | None) -> bytes:
        for _ in range(_MOST_REDIRECTS + 1):
            headers = {} if body is None else {"Content-Type": "application/json"}
            async with self._client.stream(method, url, content=body, headers=headers) as response:
                self._reached = True
                if response.is_success:
                    return await self._read(response, self._max_bytes)
                if not response.has_redirect_location:
                    raise await self._failure(response)
                url = self._next_url(response, url)
        raise RemoteError(
            f"{self.base_url} redirects more than {_MOST_REDIRECTS} times; check the base URL"
        )

    def _next_url(self, response: httpx.Response, url: httpx.URL) -> httpx.URL:
        shown = tidy(response.headers["location"], self._secret, 200)
        target = read_url(response.headers["location"], url)
        if target is None or not same_origin(target, self._base):
            raise RemoteError(
                f"{self.base_url} redirects to another server ({shown}), which is not followed; "
                "if you trust it, make it the base URL"
            )
        if response.status_code not in (307, 308):
            raise RemoteError(
                f"{self.base_url} answers HTTP {response.status_code} and points to {shown}; "
                "check the base URL"
            )
        return target

    async def _failure(self, response: httpx.Response) -> Exception:
        body = b""
        try:
            # The status is known; what is said about it must not hold anything up.
            with anyio.move_on_after(_ERROR_SECONDS):
                body = await self._read(response, _ERROR_BYTES)
        except (Lost, httpx.HTTPError):
            pass
        where = str(response.request.url.copy_with(query=None))
        return failure(response.status_code, response.headers, body, self._secret, where)

    async def _read(self, response: httpx.Response, most: int) -> bytes:
        body = bytearray()
        # The raw stream: httpx would decompress a whole chunk before its size can be checked.
        raw = cast("AsyncIterable[bytes]", response.stream)
        unpack = _decoder(response.headers.get("content-encoding", ""))
        async for chunk in raw:
            body += unpack(chunk, most + 1 - len(body))
            if len(body) > most:
                raise Lost(f"the reply is longer than {most} bytes")
        return bytes(body)

    def _explain(self, error: httpx.TransportError) -> Exception:
        detail = tidy(str(error), self._secret, 200) or type(error).__name__
        tls = _tls_error(error)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return RemoteError(
                f"the certificate of {self.base_url} cannot be verified ({detail}); "
                "for a private authority set SSL_CERT_FILE to its certificate"
            )
        if isinstance(error, _NOT_SENT):
            if self._reached or isinstance(error, httpx.PoolTimeout):
                return Refused(f"no connection to {self.base_url}: {detail}")
            hint = "does it speak https?" if tls else "check the address and that the server runs"
            return RemoteError(f"nothing answers at {self.base_url} ({detail}); {hint}")
        if isinstance(error, httpx.LocalProtocolError):
            return ConfigError(f"the request cannot be sent: {detail}")
        if isinstance(error, httpx.TimeoutException):
            return Lost(f"no reply within {self._timeout:g} s", crowded=True)
        return Lost(f"the connection broke: {detail}")


@contextmanager
def _surroundings() -> Iterator[None]:
    """Says what is wrong where a client cannot be made as the environment wants it.

    Raises:
        ConfigError: A proxy or certificates of the environment cannot be used. What a variable
            holds is not shown: proxies have passwords.
    """
    try:
        yield
        return
    except OSError:  # ssl's errors are such, too
        names, wrong = _CERTIFICATES, "names no file of certificates that can be read"
    except (ImportError, ValueError, TypeError, httpx.InvalidURL):
        names, wrong = _PROXIES, "is no proxy that can be used: write it as http://host:port"
    given = [name for name in os.environ if name.upper() in names]
    named = " or ".join(given) or names[0]
    raise ConfigError(f"the environment's {named} {wrong}, or unset it") from None


class _KeyAuth(httpx.Auth):
    """Adds the key at the last moment, and only for the server it belongs to."""

    def __init__(self, home: httpx.URL, secret: Secret, header: str, scheme: str) -> None:
        self._home, self._secret, self._header, self._scheme = home, secret, header, scheme

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        if same_origin(request.url, self._home):
            value = f"{self._scheme} {self._secret.reveal()}".strip()
            request.headers[self._header] = value
        yield request


def _decoder(encoding: str) -> Callable[[bytes, int], bytes]:
    """What unpacks a body chunk by chunk, giving no more than it is asked for."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda chunk, _most: chunk
    # Recognises gzip and zlib by their first bytes; anything else fails at once.
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def unpack(chunk: bytes, most: int) -> bytes:
        try:
            return stream.decompress(chunk, most)
        except zlib.error:
            pass
        raise Lost("the reply is not compressed the way it was asked to be")

    return unpack


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
