"""Replies that cannot be read."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from calling import KEY, replying
from faulty_server import Fault, FaultyServer, scripted

from blackbox_delta.backends.remote.http.failures import Lost


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.ERROR, "HTTP 500"),
        (Fault.RESET, "connection broke"),
        (Fault.SILENCE, "no (complete )?reply within 1 s"),
        # Every read is quick: httpx's own timeout would never strike.
        (Fault.DRIP, "no complete reply within 1 s"),
        (Fault.TRUNCATED, "connection broke"),
        (Fault.HTML, "not JSON but an HTML page: <!doctype html>"),
        (Fault.NAN, "not JSON"),
        (Fault.BOMB, "longer than 1048576 bytes"),
    ],
)
def test_broken_replies_are_lost(ask: Any, fault: Fault, message: str) -> None:
    slow = fault in {Fault.SILENCE, Fault.DRIP}
    with (
        FaultyServer(scripted([fault]), bomb_bytes=4_000_000) as server,
        pytest.raises(Lost, match=message) as caught,
    ):
        ask(server.url, timeout=1 if slow else 30, max_bytes=1024 * 1024)
    assert caught.value.crowded == slow
    assert server.faults == {fault: 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b"{", "not JSON but this: {"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"no: " + KEY.encode() + b"\x1b[2J" + b"y" * 200, r"no: \[key\] \[2Jy+…"),
    ],
)
def test_what_is_not_json_is_lost_and_described(ask: Any, body: bytes, message: str) -> None:
    with pytest.raises(Lost, match=message) as caught:
        ask(**replying(200, content=body))
    assert len(caught.value.reason) < 150
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("packed", [True, False])
def test_the_size_limit_holds_to_the_byte(ask: Any, packed: bool) -> None:
    def reply(size: int) -> dict[str, Any]:
        body = b'"' + b"x" * (size - 2) + b'"'
        content = gzip.compress(body) if packed else body
        headers = {"content-encoding": "gzip"} if packed else {}
        return replying(200, content=content, headers=headers)

    assert len(ask(max_bytes=1000, **reply(1000))) == 998
    with pytest.raises(Lost, match="longer than 1000 bytes"):
        ask(max_bytes=1000, **reply(1001))


def test_a_bomb_is_never_unpacked_whole(ask: Any) -> None:
    class Bomb(httpx.AsyncByteStream):
        packed = gzip.compress(bytes(32 * 1024 * 1024))

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield self.packed

    reply = replying(200, stream=Bomb(), headers={"content-encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(Lost, match="longer"):
            ask(max_bytes=1024, **reply)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_body_packed_otherwise_than_it_says_is_lost(ask: Any) -> None:
    with pytest.raises(Lost, match="compressed"):
        ask(**replying(200, content=b"{}", headers={"content-encoding": "br"}))
