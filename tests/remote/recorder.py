"""A proxy that writes down what a client asks a vLLM server by embeddings, and what it is told."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import httpx
import numpy as np
from tenacity import retry, retry_if_exception_type, stop_after_attempt

#: How often a server is asked before a client is told nothing.
ATTEMPTS = 4
JSON = {"Content-Type": "application/json"}
Json: TypeAlias = dict[str, Any]
#: A pair of a candidate and a prompt, as it looks on the wire.
Asked: TypeAlias = str
#: The numbers of one answer, to the last bit.
Told: TypeAlias = tuple[bytes, bytes]
#: Status and body.
Reply: TypeAlias = tuple[int, bytes]


class Recorder:
    """A server on loopback that hands everything on.

    What it was asked before it answers as it did then: a server may say the same thing otherwise
    in the last digits when other prompts are computed beside it, and the tests compare runs that
    are to be equal to the last one.

    Args:
        url: The base URL of the real server.
        classes: c, how many of the tokens that are asked for are label words.

    Attributes:
        url: Its own base URL.
        on_event: Called when a request has come, and when its reply is about to go.
        failures: What went wrong in handing requests on: nothing, or a client lost a query that
            none of the tests took from it.
    """

    def __init__(self, url: str, classes: int) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self.failures: list[str] = []
        self._classes = classes
        self._target = url.removesuffix("/v1")
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._busy = 0
        self._asked: list[Asked] = []
        self._answers: dict[Asked, Json] = {}
        self._others: dict[tuple[str, bytes], Reply] = {}
        self._source: dict[Told, Asked] = {}
        # A kept connection dies where it is used again at the moment the server lets it go.
        limits = httpx.Limits(max_keepalive_connections=0)
        # Shorter than a client waits: a busy server lets a request lie now and then.
        self._client = httpx.Client(timeout=25, trust_env=False, limits=limits)
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._client.close()

    def drain(self) -> list[Asked]:
        """The pairs that were asked since the last time, in order, repetitions included."""
        with self._lock:
            asked, self._asked = self._asked, []
        return asked

    def settle(self) -> None:
        """Waits until the server has answered all that killed clients had asked."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self._busy, timeout=300)

    @contextmanager
    def handing_on(self, what: str) -> Iterator[None]:
        """Counts a request while it is under way, and writes down what goes wrong."""
        with self._idle:
            self._busy += 1
        try:
            yield
        except Exception as error:
            self.failures.append(f"{what}: {error!r}")
            raise
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def source(self, told: Told) -> Asked:
        """The pair whose answer that is."""
        return self._source[told]

    def get(self, path: str) -> Reply:
        reply = self._client.get(self._target + path)
        return reply.status_code, reply.content

    def post(self, path: str, body: bytes) -> Reply:
        request = json.loads(body)
        # Others are a probe's questions.
        if not {"prompt_embeds", "logprob_token_ids"} <= set(request):
            return self._other(path, body)
        embeds = request.pop("prompt_embeds")
        prompts = embeds if isinstance(embeds, list) else [embeds]
        rest = json.dumps(request, sort_keys=True)
        names = [hashlib.sha256((rest + prompt).encode()).hexdigest() for prompt in prompts]
        with self._lock:
            self._asked += names
        self.on_event()
        self._answer(path, request, dict(zip(names, prompts, strict=True)))
        self.on_event()
        choices = [{**self._answers[name], "index": at} for at, name in enumerate(names)]
        reply = {"choices": choices, "usage": {"completion_tokens": len(names)}}
        return 200, json.dumps(reply).encode()

    def _other(self, path: str, body: bytes) -> Reply:
        if (path, body) not in self._others:
            reply = self._client.post(self._target + path, content=body, headers=JSON)
            self._others[path, body] = reply.status_code, reply.content
        return self._others[path, body]

    def _answer(self, path: str, request: Json, prompts: dict[Asked, str]) -> None:
        new = {name: prompt for name, prompt in prompts.items() if name not in self._answers}
        if not new:
            return
        body = {**request, "prompt_embeds": list(new.values())}
        told = self._asked_for(path, body)
        names = list(new)
        with self._lock:
            for choice, numbers in told:
                name = names[choice["index"]]
                if name not in self._answers:
                    self._answers[name] = choice
                    self._source.setdefault(numbers, name)

    @retry(
        stop=stop_after_attempt(ATTEMPTS),
        retry=retry_if_exception_type((httpx.HTTPError, KeyError)),
        reraise=True,
    )
    def _asked_for(self, path: str, body: Json) -> list[tuple[Json, Told]]:
        """The server's answers; what goes wrong on the way there is not what the tests are about.

        A client that was killed leaves its requests to the server, which may mix them up with those
        of the next one.
        """
        reply = self._client.post(self._target + path, json=body).raise_for_status().json()
        return [(choice, self._told(body, choice)) for choice in reply["choices"]]

    def _told(self, request: Json, choice: Json) -> Told:
        [found] = choice["logprobs"]["top_logprobs"]
        ids, c = request["logprob_token_ids"], self._classes
        values = [found[f"token_id:{token}"] for token in ids]
        return _numbers(values[:c], dict(zip(ids[c:], values[c:], strict=True)))


def told_in_journal(line: Json) -> Told:
    """What one line says that ``blackbox-delta journal --export`` writes."""
    others = dict(zip(line["top_ids"], line["top_logprobs"], strict=True))
    return _numbers(line["label_logprobs"], others)


def _numbers(labels: list[float], others: dict[int, float]) -> Told:
    ordered = [others[token] for token in sorted(others)]
    return np.array(labels, "<f4").tobytes(), np.array(ordered, "<f4").tobytes()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # Clients connect many times at once, and are not to be turned away while others are served.
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed has hung up."""


def _handler(recorder: Recorder) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._hand_on(lambda: recorder.get(self.path))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # killed while it was sending
            self._hand_on(lambda: recorder.post(self.path, body))

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Not on stderr."""

        def _hand_on(self, ask: Callable[[], Reply]) -> None:
            with recorder.handing_on(f"{self.command} {self.path}"):
                reply = ask()
            self._reply(*reply)

        def _reply(self, status: int, content: bytes) -> None:
            with suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    return Handler
