"""A small real HTTP server on 127.0.0.1 that does what a healthy server won't.

    with FaultyServer(seeded(0, 0.3, LOSING)) as server:
        ...  # requests to server.url
    assert server.answered["some prompt"] == 1

It speaks a good part of OpenAI's protocol (``toy_api`` makes the replies) and misbehaves by plan.
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import toy_api
from toy_api import BadRequestError, Json


class Fault(enum.Enum):
    """What the server does instead of answering, or to its answer."""

    TOO_MANY = enum.auto()  # 429
    TOO_MANY_WAIT = enum.auto()  # 429 with Retry-After
    OVERLOADED = enum.auto()  # 503
    ERROR = enum.auto()  # 500
    RESET = enum.auto()  # the connection is reset once the request was read
    SILENCE = enum.auto()  # no reply until the client hangs up
    DRIP = enum.auto()  # a byte now and then
    TRUNCATED = enum.auto()  # ends in the middle, Content-Length says more
    OTHER_JSON = enum.auto()  # well-formed JSON of another shape
    HTML = enum.auto()  # a page, with status 200
    NO_LOGPROBS = enum.auto()
    NAN = enum.auto()
    FEWER = enum.auto()  # one choice is missing
    DUPLICATED = enum.auto()  # one choice stands in for another, or comes twice
    PERMUTED = enum.auto()  # choices in another order: legal, they carry their index
    FILTERED = enum.auto()  # 400: a content filter stops the text
    FILTERED_ANSWER = enum.auto()  # 200, but the filter stops what the model said
    TOO_LONG = enum.auto()  # 400: the text does not fit the model's context
    ENDED_AT_ONCE = enum.auto()  # 200, but the model said nothing, and no token is shown
    REDIRECT = enum.auto()  # 307 to another host
    BOMB = enum.auto()  # a little gzip that unpacks to a lot


#: Turned away unanswered; a retry is free.
REFUSING = frozenset({Fault.TOO_MANY, Fault.TOO_MANY_WAIT, Fault.OVERLOADED})
#: No attempt is answered: the text is not wanted.
FILTERING = frozenset({Fault.FILTERED, Fault.FILTERED_ANSWER})
#: Another attempt would be the same.
LASTING = FILTERING | {Fault.ENDED_AT_ONCE, Fault.TOO_LONG}
#: Worth a retry, though the last attempt may be billed.
LOSING = frozenset(Fault) - REFUSING - LASTING - {Fault.PERMUTED, Fault.REDIRECT}

#: The fault for a scoring request, by its number (from 0) and the prompts it holds.
Plan = Callable[[int, list[str]], Fault | None]


def healthy(_number: int, _prompts: list[str]) -> Fault | None:
    """No fault, ever."""
    return None


def scripted(faults: Iterable[Fault | None]) -> Plan:
    """One fault after another, then none."""
    script = list(faults)
    return lambda number, _prompts: script[number] if number < len(script) else None


def seeded(seed: int, rate: float, kinds: Collection[Fault], most_in_a_row: int = 3) -> Plan:
    """A fault with probability ``rate``; the same prompts fail at most so often in a row."""
    rng = np.random.Generator(np.random.PCG64(seed))
    ordered = sorted(kinds, key=lambda kind: kind.value)
    failed: Counter[tuple[str, ...]] = Counter()

    def plan(_number: int, prompts: list[str]) -> Fault | None:
        key = tuple(prompts)
        if rng.random() >= rate or failed[key] >= most_in_a_row:
            failed[key] = 0
            return None
        failed[key] += 1
        return ordered[int(rng.integers(len(ordered)))]

    return plan


#: As Azure puts it.
FILTER_ERROR: Json = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
    "management policy. Please modify your prompt and retry.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}
#: OpenAI's.
TOO_LONG_ERROR: Json = {
    "message": "This model's maximum context length is 12 tokens. However, your messages resulted "
    "in 17 tokens. Please reduce the length of the messages.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


@dataclass
class Request:
    """One request as it was received; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class FaultyServer:
    """Serves from a thread between entering and leaving its context.

    Attributes:
        plan: Which scoring request meets which fault.
        key: What clients must send as a bearer token; ``None`` for nothing.
        model: The one model that it serves.
        hold: Seconds that it works on a scoring request.
        retry_after: What ``TOO_MANY_WAIT`` asks for, as the header says it.
        redirect_to: Where ``REDIRECT`` points.
        drip: Seconds between two bytes of ``DRIP``.
        bomb_bytes: The size of ``BOMB`` when unpacked.
        requests: Everything received, in order.
        received: How often each prompt was asked about.
        answered: How often a whole and correct answer about each prompt was sent.
        refused: How often each prompt was turned away with 429 or 503.
        faults: How often each fault happened.
        most_in_flight: The most scoring requests that were worked on at once.
    """

    plan: Plan = healthy
    key: str | None = None
    model: str = "toy"
    hold: float = 0.0
    retry_after: str = "0"
    redirect_to: str = "http://127.0.0.2:9/v1/completions"
    drip: float = 0.02
    bomb_bytes: int = 65 * 1024 * 1024
    requests: list[Request] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    most_in_flight: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._number = 0
        self._in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._conversations: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the test server did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._welcome, "127.0.0.1", self.port, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._conversations:
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._converse(_Peer(reader, writer)))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def _converse(self, peer: _Peer) -> None:
        """Requests on one connection until either side closes it."""
        try:
            while (request := await peer.receive()) is not None:
                self.requests.append(request)
                await self._respond(peer, request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            peer.writer.close()

    async def _respond(self, peer: _Peer, request: Request) -> None:
        path = request.path.split("?")[0]
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            await peer.send(401, {"error": "Unauthorized"})
        elif request.method == "GET":
            await self._inform(peer, path)
        elif path == "/tokenize":
            tokens = toy_api.tokenize(str(json.loads(request.body)["prompt"]))
            await peer.send(200, {"count": len(tokens), "max_model_len": 2048, "tokens": tokens})
        elif path in ("/v1/completions", "/v1/chat/completions"):
            await self._score(peer, path, json.loads(request.body))
        else:
            await peer.send(404, {"detail": "Not Found"})

    async def _inform(self, peer: _Peer, path: str) -> None:
        card = {"id": self.model, "object": "model", "owned_by": "toy", "max_model_len": 2048}
        if path == "/v1/models":
            await peer.send(200, {"object": "list", "data": [card]})
        elif path == "/metrics":
            await peer.send_raw(200, f"toy:requests_total {len(self.requests)}\n".encode())
        else:
            await peer.send(404, {"detail": "Not Found"})

    async def _score(self, peer: _Peer, path: str, request: Json) -> None:
        if request.get("model") != self.model:
            message = f"The model `{request.get('model')}` does not exist."
            await peer.send(404, {"error": {"message": message, "code": 404}})
            return
        try:
            prompts = toy_api.prompts_of(path, request)
            reply = toy_api.answer(path, request, prompts)
        except BadRequestError as error:
            await peer.send(400, {"error": {"message": str(error), "code": 400}})
            return
        self.received.update(prompts)
        fault = self.plan(self._number, prompts)
        self._number += 1
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            if self.hold:
                await asyncio.sleep(self.hold)
            await self._deliver(peer, reply, prompts, fault)
        finally:
            self._in_flight -= 1

    async def _deliver(
        self, peer: _Peer, reply: Json, prompts: list[str], fault: Fault | None
    ) -> None:
        if fault is not None:
            self.faults[fault] += 1
        if fault in REFUSING:
            self.refused.update(prompts)
            waiting = {"Retry-After": self.retry_after} if fault is Fault.TOO_MANY_WAIT else {}
            status = 503 if fault is Fault.OVERLOADED else 429
            await peer.send(status, {"error": {"message": "too busy"}}, waiting)
        elif fault is Fault.FILTERED:
            await peer.send(400, {"error": FILTER_ERROR})
        elif fault is Fault.TOO_LONG:
            self.refused.update(prompts)
            await peer.send(400, {"error": TOO_LONG_ERROR})
        elif fault is None or fault is Fault.PERMUTED:
            if fault is Fault.PERMUTED:
                reply["choices"].reverse()
            # Before the last byte leaves: the client may look at once.
            self.answered.update(prompts)
            await peer.send(200, reply)
        elif fault in _SPOILERS:
            sound = json.dumps(reply)
            _SPOILERS[fault](reply)
            if json.dumps(reply) == sound:  # nothing there to spoil
                self.answered.update(prompts)
            await peer.send(200, reply)
        else:
            await self._misbehave(peer, reply, fault)

    async def _misbehave(self, peer: _Peer, reply: Json, fault: Fault) -> None:
        body = json.dumps(reply).encode()
        if fault is Fault.ERROR:
            await peer.send(500, {"error": {"message": "something broke"}})
        elif fault is Fault.RESET:
            peer.reset()
        elif fault is Fault.SILENCE:
            await peer.reader.read()
        elif fault is Fault.DRIP:
            await peer.drip(body, self.drip)
        elif fault is Fault.TRUNCATED:
            await peer.send_raw(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
            peer.writer.close()
        elif fault is Fault.OTHER_JSON:
            await peer.send(200, {"result": "ok"})
        elif fault is Fault.HTML:
            await peer.send_raw(200, b"<!doctype html><html><body>Log in</body></html>")
        elif fault is Fault.REDIRECT:
            await peer.send_raw(307, b"", {"Location": self.redirect_to})
        elif fault is Fault.BOMB:
            bomb = gzip.compress(bytes(self.bomb_bytes), 1)
            await peer.send_raw(200, bomb, {"Content-Encoding": "gzip"})


@dataclass
class _Peer:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self) -> Request | None:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in map(_colon, lines) if name}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        return Request(method, path, headers, body)

    async def send(
        self, status: int, reply: Json, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(reply).encode()
        await self.send_raw(status, body, {"Content-Type": "application/json", **(headers or {})})

    async def send_raw(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.writer.write(self._head(status, {"Content-Length": str(len(body)), **(headers or {})}))
        self.writer.write(body)
        await self.writer.drain()

    async def drip(self, body: bytes, pause: float) -> None:
        self.writer.write(self._head(200, {"Content-Length": str(len(body))}))
        for position in range(len(body)):
            self.writer.write(body[position : position + 1])
            await self.writer.drain()
            await asyncio.sleep(pause)

    def reset(self) -> None:
        """Ends the connection with a TCP reset instead of a goodbye."""
        lingering = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, lingering
        )
        self.writer.transport.abort()

    @staticmethod
    def _head(status: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} .", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _colon(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _without_logprobs(reply: Json) -> None:
    for choice in reply["choices"]:
        choice["logprobs"] = None


def _with_nan(reply: Json) -> None:
    logprobs = reply["choices"][-1]["logprobs"]
    if logprobs is None:
        reply["usage"]["prompt_tokens"] = float("nan")
    elif "content" in logprobs:
        logprobs["content"][0]["logprob"] = float("nan")
    else:
        logprobs["token_logprobs"][0] = float("nan")


def _one_fewer(reply: Json) -> None:
    reply["choices"].pop()


def _duplicated(reply: Json) -> None:
    if len(reply["choices"]) > 1:
        reply["choices"].pop()
    reply["choices"].append(reply["choices"][0])


def _filtered(reply: Json) -> None:
    for choice in reply["choices"]:
        choice |= {"logprobs": None, "finish_reason": "content_filter"}
        choice |= {"text": ""} if "text" in choice else {"message": None}


def _ended_at_once(reply: Json) -> None:
    for choice in reply["choices"]:
        del choice["logprobs"]
        choice["finish_reason"] = "stop"
        choice |= {"text": ""} if "text" in choice else {"message": {"content": ""}}


_SPOILERS: dict[Fault, Callable[[Json], None]] = {
    Fault.NO_LOGPROBS: _without_logprobs,
    Fault.NAN: _with_nan,
    Fault.FEWER: _one_fewer,
    Fault.DUPLICATED: _duplicated,
    Fault.FILTERED_ANSWER: _filtered,
    Fault.ENDED_AT_ONCE: _ended_at_once,
}
