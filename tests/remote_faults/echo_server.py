"""A server that shows the key it was sent wherever it can."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import quote

import toy_api

#: Makes the whole reply, from the status line on, of the key.
Echo = Callable[[str], bytes]


class EchoServer:
    """Answers scoring requests with an echo, and lists its models either way.

    Args:
        echo: What scoring requests are answered with; ``None`` for sound replies that carry the
            key in headers and in fields that nobody asked for.
        models: What requests for the list of models are answered with, likewise.

    Attributes:
        headers: Those of every request, names in lower case.
        key: What is echoed until a request has brought another.
    """

    def __init__(self, echo: Echo | None = None, models: Echo | None = None) -> None:
        self.headers: list[dict[str, str]] = []
        self._echo, self._models = echo, models
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> EchoServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                card = {"id": "toy", "owned_by": "toy", "max_model_len": 2048}
                self._answer(outer._models, {"object": "list", "data": [card]})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path = self.path.split("?")[0]
                self._answer(outer._echo, sound(path, request))

            def _answer(self, echo: Echo | None, reply: Any) -> None:
                sent = {name.lower(): value for name, value in self.headers.items()}
                outer.headers.append(sent)
                key = sent.get("authorization", "").removeprefix("Bearer ") or "nothing"
                if echo is None:
                    reply["echo"] = {"key": key, key: [key]}
                    self.wfile.write(json_reply(200, reply, **{"X-Echo": key, "Set-Cookie": key}))
                else:
                    self.wfile.write(echo(key))
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def sound(path: str, request: Any) -> Any:
    return toy_api.answer(path, request, toy_api.prompts_of(path, request))


def raw(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def json_reply(status: int, reply: Any, **headers: str) -> bytes:
    return raw(
        f"{status} .", json.dumps(reply).encode(), Content_Type="application/json", **headers
    )


def message(status: int, words: Callable[[str], Any], **headers: str) -> Echo:
    """An error as OpenAI's API words it."""
    return lambda key: json_reply(status, {"error": {"message": words(key)}}, **headers)


def page(key: str) -> bytes:
    return f"<!doctype html><html><body>Your key {key} is not known.</body></html>".encode()


def b64(key: str, before: str = "") -> str:
    return base64.b64encode((before + key).encode()).decode()


#: Replies that end a run at once or after some attempts.
ECHOES: dict[str, Echo] = {
    "401": message(401, lambda key: f"Incorrect API key provided: {key}."),
    "401 in base64": message(401, lambda key: f"Basic {b64(key, 'user:')} is wrong"),
    "401 in base64, longer": message(401, lambda key: f"got {b64('Bearer ' + key + ' x')}"),
    "401 percent-encoded": message(401, lambda key: f"got {quote(key, safe='')} or {quote(key)}"),
    "403 page": lambda key: raw("403 .", page(key), WWW_Authenticate=key),
    "400 nested": message(400, lambda key: {"key": key, "code": [key]}),
    "404 text": lambda key: raw("404 .", f"no route for {key}".encode()),
    "422 detail": lambda key: json_reply(422, {"detail": [{"loc": ["header"], "msg": key}]}),
    "413 reason": lambda key: raw(f"413 {key}", key.encode(), X_Request_Id=key),
    "429": lambda key: json_reply(429, {"error": key}, Retry_After=key),
    "500 page": lambda key: raw("500 .", page(key)),
    "503 list": lambda key: json_reply(503, [key]),
    "200 page": lambda key: raw("200 .", page(key)),
    "200 key": lambda key: raw("200 .", key.encode()),
    "200 blanks": lambda key: raw("200 .", b" " * (4096 - 12) + key.encode()),
    "200 cut": lambda key: raw("200 .", json.dumps({key: key}).encode()[:-4], Content_Length="900"),
    "200 NaN": lambda key: raw("200 .", f'{{"choices": NaN, "key": {json.dumps(key)}}}'.encode()),
    "200 error": lambda key: json_reply(200, {"error": {"message": key}}),
    "200 shape": lambda key: json_reply(200, {"choices": [{"index": key, key: key}]}),
    "200 packed": lambda key: raw("200 .", key.encode(), Content_Encoding="gzip"),
    "200 coding": lambda key: raw("200 .", key.encode(), Content_Encoding=key),
    "bad header": lambda key: f"HTTP/1.1 200 .\r\n{key}\r\n\r\n".encode(),
    "bad length": lambda key: raw("200 .", b"", Content_Length=key),
    "bad status": lambda key: f"HTTP/1.1 {key}\r\n\r\n".encode(),
    "no HTTP": lambda key: f"{key}\r\n{key}\r\n\r\n".encode(),
    "redirect": lambda key: raw("307 .", Location=f"http://evil.example/?k={quote(key)}&{key}"),
    "redirect here": lambda key: raw("302 .", Location=f"/v1/elsewhere/{key}"),
    "redirect odd": lambda key: raw("308 .", Location=f"http://[{key}"),
}
