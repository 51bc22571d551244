from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import subprocess
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from faulty_server import FILTER_ERROR, LOSING, REFUSING, Fault, FaultyServer, scripted

from blackbox_delta.backends.remote.http.failures import (
    Lost,
    Refused,
    TooLongError,
    Transient,
    WithheldError,
)
from blackbox_delta.backends.remote.http.secrets import Secret
from blackbox_delta.backends.remote.http.transport import Transport, _KeyAuth
from blackbox_delta.errors import AuthorisationError, ConfigError, RejectedError, RemoteError

KEY = "sk-test-4f8a1c9e7d2b"
BODY = json.dumps({"model": "toy", "prompt": "hello world", "logprobs": 2}).encode()
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def ask(in_real_time: Any) -> Callable[..., Any]:
    """Makes one request through a transport and returns what it returns or raises."""

    def run(url: str = "http://127.0.0.1/v1", path: str = "completions", **options: Any) -> Any:
        method = options.pop("method", "post")
        options.setdefault("secret", Secret(KEY))

        async def call() -> Any:
            transport = Transport(url, **options)
            try:
                request = getattr(transport, method)
                return await (request(path, BODY) if method == "post" else request(path))
            finally:
                await transport.aclose()

        return in_real_time(call)

    return run


def mocked(handler: Handler) -> dict[str, Any]:
    return {"transport": httpx.MockTransport(handler)}


def replying(status: int, **options: Any) -> dict[str, Any]:
    return mocked(lambda _request: httpx.Response(status, **options))


# ------------------------------------------------------------------------------ asking


def test_a_post_brings_the_json_and_carries_the_key(ask: Any) -> None:
    with FaultyServer(key=KEY) as server:
        reply = ask(server.url)
    assert [choice["index"] for choice in reply["choices"]] == [0]
    assert server.answered["hello world"] == 1
    assert server.requests[0].headers["content-type"] == "application/json"
    assert server.requests[0].body == BODY


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("completions", "/v1/completions"),
        ("/metrics", "/metrics"),
        ("../tokenize", "/tokenize"),
        ("//evil.example/x", "/evil.example/x"),
        ("http://evil.example/x", "/v1/http:/evil.example/x"),
    ],
)
def test_paths_count_from_the_base_or_the_root_and_never_leave_the_host(
    ask: Any, path: str, expected: str
) -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={})

    ask("http://127.0.0.1:81/v1/", path, query={"api-version": "1"}, **mocked(handler))
    assert str(seen[0]) == f"http://127.0.0.1:81{expected}?api-version=1"


def test_azure_style_keys_have_their_own_header_and_no_scheme(ask: Any) -> None:
    seen: list[httpx.Headers] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={})

    ask(auth_header="api-key", auth_scheme="", headers={"X-Team": "a"}, **mocked(handler))
    assert seen[0]["api-key"] == KEY
    assert "authorization" not in seen[0]
    assert seen[0]["x-team"] == "a"


@pytest.mark.parametrize("before", range(0, 130, 7))
def test_an_excerpt_shows_both_ends_of_a_text_and_nothing_of_the_key(before: int) -> None:
    transport = Transport("http://127.0.0.1:81/v1", secret=Secret(KEY))
    shown = transport.excerpt(f"{'<' * before}{KEY}\x1b\n{'>' * (130 - before)}")
    assert not any(KEY[at : at + 4] in shown for at in range(len(KEY) - 3))
    assert shown.isprintable()
    assert len(shown) <= 123
    assert transport.excerpt("a  short\ntext") == "a short text"


def test_text_and_models_can_be_fetched(ask: Any) -> None:
    with FaultyServer() as server:
        assert ask(server.url, "models", method="get")["data"][0]["id"] == "toy"
        assert ask(server.url, "/metrics", method="get_text").startswith("toy:requests_total")


def test_gzip_is_unpacked(ask: Any) -> None:
    packed = gzip.compress(b'{"a": [1, 2]}')
    options = {"content": packed, "headers": {"content-encoding": "gzip"}}
    assert ask(**replying(200, **options)) == {"a": [1, 2]}


# ------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://example.com/v1",
        "https:///v1",
        "https://user:hunter2@example.com/v1",
        "https://example.com/v1?key=hunter2",
        "https://example.com/v1#hunter2",
        "https://example.com:port/v1",
        "hunter2",
        "",
    ],
)
def test_a_base_url_that_makes_no_sense_is_refused_without_showing_passwords(url: str) -> None:
    with pytest.raises(ConfigError, match="write it like https://") as caught:
        Transport(url, secret=None)
    assert "hunter2" not in str(caught.value)


def test_a_whole_endpoint_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigError, match=r"write https://example\.com/v1$"):
        Transport("https://example.com/v1/chat/completions", secret=None)


def test_a_key_never_travels_unencrypted_to_another_machine() -> None:
    with pytest.raises(ConfigError, match="unencrypted"):
        Transport("http://example.com/v1", secret=Secret(KEY))
    with pytest.raises(ConfigError, match="unencrypted"):
        Transport("http://127.0.0.1.example.com/v1", secret=Secret(KEY))
    for url in ("http://localhost:1/v1", "http://[::1]:1/v1", "https://example.com/v1"):
        Transport(url, secret=Secret(KEY))
    Transport("http://example.com/v1", secret=None)


@pytest.mark.parametrize(
    "options",
    [
        {"query": {"key": "x"}},
        {"query": {"anything": KEY}},
        {"headers": {"Authorization": "Bearer x"}},
        {"headers": {"X-Anything": f"Bearer {KEY}"}},
        {"headers": {"X-Team": "a\r\nX-Evil: b"}},
        {"timeout": 0.0},
    ],
)
def test_keys_have_one_place_and_headers_hold_no_line_breaks(options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Transport("https://example.com/v1", secret=Secret(KEY), **options)
    assert KEY not in str(caught.value)


def test_loopback_servers_are_never_reached_through_a_proxy(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FaultyServer(key=KEY) as server:
        assert ask(server.url)["choices"]


# -------------------------------------------------------------------------- statuses


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_accepted_is_final(ask: Any, status: int) -> None:
    with pytest.raises(AuthorisationError, match=f"HTTP {status}: Unauthorized"):
        ask(**replying(status, json={"error": "Unauthorized"}))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Your chosen model requires moderation and your input was flagged for violence", 403),
        ("The prompt violates our content policy", 403),
        ("filtered", "content_filter"),
        ("triggered Azure OpenAI's content management policy", "x"),
    ],
)
def test_a_text_that_a_provider_does_not_want_is_no_matter_of_the_key(
    ask: Any, words: str, code: int | str
) -> None:
    error = {"message": words, "code": code}
    with pytest.raises(RejectedError, match=f"refuses the request .HTTP 403: {words}") as caught:
        ask(**replying(403, json={"error": error}))
    assert "key" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, FILTER_ERROR),  # Azure's
        (
            400,  # OpenAI's
            {
                "message": "Invalid prompt: your prompt was flagged as potentially violating our "
                "usage policy. Please try again with a different prompt: https://a.example/b",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_prompt",
            },
        ),
        (  # OpenRouter's
            403,
            {
                "code": 403,
                "message": "Your chosen model requires moderation and your input was flagged",
                "metadata": {"reasons": ["violence"], "flagged_input": "a dull mess"},
            },
        ),
    ],
)
def test_what_a_content_filter_stops_is_told_apart(ask: Any, status: int, error: Any) -> None:
    with pytest.raises(WithheldError, match="refuses the request") as caught:
        ask(**replying(status, json={"error": error}))
    assert caught.value.reason.startswith(f"HTTP {status}: {error['message'][:30]}")


@pytest.mark.parametrize(
    "words",
    [
        "Your key was not flagged",
        "'a moderately dull film' is no list of ids",
    ],
)
def test_other_requests_are_refused_for_what_they_ask(ask: Any, words: str) -> None:
    with pytest.raises(RejectedError) as caught:
        ask(**replying(400, json={"error": {"message": words, "code": 400}}))
    assert type(caught.value) is RejectedError


@pytest.mark.parametrize(
    ("status", "error"),
    [
        # OpenAI's and Azure's, DeepSeek's, OpenRouter's, vLLM's two, SGLang's, llama.cpp's,
        # Anthropic's, Gemini's, TGI's and Together's.
        (400, {"message": "too many tokens", "code": "context_length_exceeded"}),
        (400, {"message": "This model's maximum context length is 131072 tokens."}),
        (400, {"message": "This endpoint's maximum context length is 32768 tokens."}),
        (400, {"message": "The decoder prompt is longer than the maximum model length of 64."}),
        (400, {"message": "The input (9 tokens) is longer than the model's context length (8)."}),
        (400, {"message": "request (9 tokens) exceeds the available context size (8 tokens)"}),
        (400, {"message": "no room", "type": "exceed_context_size_error", "code": 400}),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}),
        (400, {"message": "The input token count (9) exceeds the maximum number of tokens (8)."}),
        (422, {"message": "Input validation error: `inputs` must have less than 8 tokens"}),
        (422, {"message": "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9"}),
    ],
)
def test_what_does_not_fit_the_context_is_told_apart(ask: Any, status: int, error: Any) -> None:
    with pytest.raises(TooLongError, match=rf"refuses the request \(HTTP {status}: "):
        ask(**replying(status, json={"error": error}))
    with pytest.raises(Lost):
        ask(**replying(500, json={"error": error}))


@pytest.mark.parametrize("words", ["Your key was flagged", "content is not for this key", "policy"])
def test_other_words_are_about_the_key(ask: Any, words: str) -> None:
    with pytest.raises(AuthorisationError, match=words):
        ask(**replying(403, json={"error": {"message": words}}))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no model x", "type": "NotFoundError", "code": 404}},
        {"error": "no model x"},
        {"message": "no model x"},
        {"object": "error", "message": "no model x", "code": 404},
        {"detail": "no model x"},
    ],
)
@pytest.mark.parametrize("status", [400, 402, 404, 405, 413, 422])
def test_what_lasts_is_raised_with_the_servers_own_words(ask: Any, status: int, body: Any) -> None:
    with pytest.raises(RemoteError, match=rf"/v1/completions .*HTTP {status}: no model x\b"):
        ask(**replying(status, json=body))


@pytest.mark.parametrize("status", [429, 503, 529])
def test_refusals_pass(ask: Any, status: int) -> None:
    with pytest.raises(Refused, match=f"HTTP {status}: busy") as caught:
        ask(**replying(status, json={"error": {"message": "busy"}}))
    assert caught.value.retry_after is None
    assert caught.value.crowded


def test_a_refusal_for_want_of_money_does_not_pass(ask: Any) -> None:
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    with pytest.raises(RemoteError, match="current quota"):
        ask(**replying(429, json={"error": error}))


@pytest.mark.parametrize("status", [408, 409, 500, 502, 504, 520])
def test_server_errors_count_as_lost(ask: Any, status: int) -> None:
    with pytest.raises(Lost, match=f"HTTP {status}"):
        ask(**replying(status, text="<html>"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, RejectedError),
        (401, AuthorisationError),
        (402, RemoteError),
        (429, Refused),
        (503, Refused),
        (502, Lost),
    ],
)
def test_an_error_in_place_of_a_reply_counts_as_its_code_says(
    ask: Any, code: int, kind: type[Exception]
) -> None:
    error = {"code": code, "message": f"bad \x1b[2Jluck, {KEY}"}
    with pytest.raises(kind, match=rf"error {code}: bad \[2Jluck, \[key\]") as caught:
        ask(**replying(200, json={"error": error}))
    assert type(caught.value) is kind
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert not [frame for frame in shown.stack if frame.locals and "reply" in frame.locals]


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"message": "no", "code": "rate_limit"}},
        {"error": {"message": "no", "code": True}},
        {"error": {"message": "no", "code": 1234}},
        {"error": "no"},
        {"error": None},
        {"error": {"code": 500}, "choices": [{"text": "yes"}]},
        [{"error": {"code": 500}}],
    ],
)
def test_what_else_a_reply_holds_is_left_to_its_reader(ask: Any, reply: Any) -> None:
    assert ask(**replying(200, json=reply)) == reply


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "99999"}, 300.0),
        ({"Retry-After": "inf"}, 300.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        # Years from now or long ago by our clock: only the difference to the reply's Date counts.
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:30 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2099 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 -0000", "Date": DATE}, None),
        ({"Retry-After": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", "Date": DATE}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(
    ask: Any, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(Refused) as caught:
        ask(**replying(429, headers=headers))
    assert caught.value.retry_after == seconds


def test_what_the_server_says_is_shortened_cleaned_and_redacted(ask: Any) -> None:
    words = f"\x1b[31mwrong\x00 key {KEY} \u202e" + "x" * 1000
    with pytest.raises(RemoteError, match=r"wrong key \[key\]") as caught:
        ask(**replying(400, json={"error": {"message": words}}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 450


def test_a_key_cut_by_the_shortening_is_gone_too(ask: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        ask(**replying(400, json={"error": "x" * 290 + KEY}))
    assert KEY[:6] not in str(caught.value)


def test_a_refusal_is_one_even_if_its_words_never_come(in_real_time: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 .\r\nRetry-After: 2\r\nContent-Length: 9\r\n\r\nshort")
        writer.close()

    with pytest.raises(Refused) as caught:
        in_real_time(lambda: against(serve, "http"))
    assert caught.value.retry_after == 2.0


# ------------------------------------------------------------------- broken replies


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


# ------------------------------------------------------------------------ redirects


def test_the_key_does_not_follow_to_another_server(ask: Any) -> None:
    with FaultyServer() as other:
        target = f"{other.url}/completions"
        with (
            FaultyServer(scripted([Fault.REDIRECT]), redirect_to=target) as server,
            pytest.raises(RemoteError, match="redirects to another server") as caught,
        ):
            ask(server.url)
    assert other.requests == []
    assert target in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "http://example.com/v1",
        "https://example.com:444/v1",
        "//evil.example/v1",
        "gopher://x",
        "https://xn--a/v1",
        "https://example.com:99999/v1",
    ],
)
def test_another_scheme_host_or_port_is_another_server(ask: Any, target: str) -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request.url)
        return httpx.Response(308, headers={"location": target})

    with pytest.raises(RemoteError, match="another server"):
        ask("https://example.com/v1", **mocked(handler))
    assert len(calls) == 1


def test_the_last_hand_on_the_key_looks_at_the_address_as_well() -> None:
    auth = _KeyAuth(httpx.URL("https://example.com/v1"), Secret(KEY), "Authorization", "Bearer")
    for url, expected in (("https://example.com/x", f"Bearer {KEY}"), ("https://evil.com/x", None)):
        request = next(auth.auth_flow(httpx.Request("GET", url)))
        assert request.headers.get("authorization") == expected


def test_a_redirect_on_the_same_server_is_followed_a_little(ask: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        hops = int(request.url.path.rpartition("/")[2])
        if hops == 0:
            assert request.method == "POST"
            assert request.headers["authorization"] == f"Bearer {KEY}"
            return httpx.Response(200, content=request.content)
        return httpx.Response(307, headers={"location": f"/to/{hops - 1}"})

    assert ask(path="/to/3", **mocked(handler)) == json.loads(BODY)
    with pytest.raises(RemoteError, match="more than 3 times"):
        ask(path="/to/4", **mocked(handler))


def test_a_redirect_that_would_drop_the_body_is_final(ask: Any) -> None:
    with pytest.raises(RemoteError, match="points to /login"):
        ask(**replying(302, headers={"location": "/login"}))


# ------------------------------------------------------------------------ connecting


def test_nothing_at_the_address_is_said_at_once(ask: Any) -> None:
    with FaultyServer() as server:
        pass  # its port is free again
    with pytest.raises(RemoteError, match=rf"nothing answers at {server.url} ") as caught:
        ask(server.url)
    assert not isinstance(caught.value, Transient)


def test_a_server_that_was_there_may_come_back(in_real_time: Any) -> None:
    async def call() -> None:
        with FaultyServer() as server:
            transport = Transport(server.url, secret=None)
            await transport.get("models")
        try:
            # The first may find the old connection, closed by now.
            with pytest.raises(Transient):
                await transport.get("models")
            with pytest.raises(Refused, match="no connection"):
                await transport.get("models")
        finally:
            await transport.aclose()

    in_real_time(call)


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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and private key for 127.0.0.1 that nobody vouches for."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=toy"
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path]
    try:
        subprocess.run([*command.split(), *name], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("the openssl command is not installed")
    return path


async def serve_models(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 .\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("trusted", [False, True])
def test_certificates_are_verified(
    in_real_time: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert in_real_time(lambda: against(serve_models, "https", context)) == {}
    else:
        with pytest.raises(RemoteError, match="cannot be verified .*SSL_CERT_FILE"):
            in_real_time(lambda: against(serve_models, "https", context))


# --------------------------------------------------------------------------- secrecy


def chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("fault", [None, *sorted(LOSING | REFUSING, key=lambda one: one.value)])
def test_the_key_reaches_no_log_repr_or_traceback(
    ask: Any, fault: Fault | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error: BaseException | None = None
    with FaultyServer(scripted([fault]), key=KEY, bomb_bytes=2_000_000) as server:
        try:
            slow = fault in {Fault.SILENCE, Fault.DRIP}
            ask(server.url, timeout=1 if slow else 30, max_bytes=1_000_000)
        except (Transient, RemoteError) as raised:
            error = raised
    assert KEY not in caplog.text
    assert "HTTP Request" in caplog.text or fault in {Fault.RESET, Fault.SILENCE}
    if error is not None:
        assert KEY not in "".join(traceback.format_exception(error))
        assert not [one for one in chain(error) if type(one).__module__.startswith("http")]


def test_connecting_in_vain_shows_no_key_either(ask: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        ask("http://127.0.0.1:9/v1")
    assert not [one for one in chain(caught.value) if type(one).__module__.startswith("http")]
    assert KEY not in repr(vars(Transport("https://example.com", secret=Secret(KEY))))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTPS_PROXY", "foo://me:secret@proxy.invalid:1", "HTTPS_PROXY is no proxy"),
        ("all_proxy", "socks4://me:secret@proxy.invalid:1", "all_proxy is no proxy"),
        ("SSL_CERT_FILE", "/nowhere/secret.pem", "SSL_CERT_FILE names no file of certificates"),
        ("SSL_CERT_FILE", "{junk}", "SSL_CERT_FILE names no file of certificates"),
    ],
)
def test_what_the_environment_wants_and_cannot_be_is_told(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the variable's name alone: proxies have passwords."""
    junk = tmp_path / "secret.pem"
    junk.write_text("junk")
    for known in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(known, raising=False)
        monkeypatch.delenv(known.lower(), raising=False)
    monkeypatch.setenv(name, value.format(junk=junk))
    with pytest.raises(ConfigError, match=message) as caught:
        Transport("https://api.example.com/v1", secret=None)
    assert "secret" not in str(caught.value)
