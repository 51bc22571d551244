"""A transport to call, with a key, and servers to call with it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from blackbox_delta.backends.remote.http.secrets import Secret
from blackbox_delta.backends.remote.http.transport import Transport

KEY = "sk-test-4f8a1c9e7d2b"
BODY = json.dumps({"model": "toy", "prompt": "hello world", "logprobs": 2}).encode()
Handler = Callable[[httpx.Request], httpx.Response]


def mocked(handler: Handler) -> dict[str, Any]:
    return {"transport": httpx.MockTransport(handler)}


def replying(status: int, **options: Any) -> dict[str, Any]:
    return mocked(lambda _request: httpx.Response(status, **options))


def one_request(
    url: str = "http://127.0.0.1/v1", path: str = "completions", **options: Any
) -> Callable[[], Awaitable[Any]]:
    """A request through a transport of its own, ready to be made."""
    method = options.pop("method", "post")
    options.setdefault("secret", Secret(KEY))

    async def call() -> Any:
        transport = Transport(url, **options)
        try:
            request = getattr(transport, method)
            return await (request(path, BODY) if method == "post" else request(path))
        finally:
            await transport.aclose()

    return call


async def against(serve: Any, scheme: str, context: ssl.SSLContext | None = None) -> Any:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    transport = Transport(f"{scheme}://127.0.0.1:{port}/v1", secret=Secret(KEY), timeout=5)
    try:
        return await transport.get("models")
    finally:
        await transport.aclose()
        server.close()
        # A handshake that the client broke off ends a moment later here.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
