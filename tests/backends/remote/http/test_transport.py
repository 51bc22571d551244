from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import subprocess
import traceback
from pathlib import Path
from typing import Any

import httpx
import pytest
from calling import BODY, KEY, against, mocked, replying
from faulty_server import LOSING, REFUSING, Fault, FaultyServer, scripted

from blackbox_delta.backends.remote.http.failures import Refused, Transient
from blackbox_delta.backends.remote.http.secrets import Secret
from blackbox_delta.backends.remote.http.transport import Transport, _KeyAuth
from blackbox_delta.errors import ConfigError, RemoteError

# ------------------------------------------------------------------------------- asking


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

    ask(auth_header="api-key", auth_scheme="", **mocked(handler))
    assert seen[0]["api-key"] == KEY
    assert "authorization" not in seen[0]


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


# ----------------------------------------------------------------------------- settings


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
        {"query": {"anything": "a\r\nX-Evil: b"}},
        {"timeout": 0.0},
    ],
)
def test_keys_have_one_place_and_no_parameter_holds_line_breaks(options: Any) -> None:
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


# ---------------------------------------------------------------------------- redirects


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


# --------------------------------------------------------------------------- connecting


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


# ------------------------------------------------------------------------------ secrecy


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
