"""One server from plain code: keys, single requests, and an end that leaves nothing behind."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Fault, FaultyServer, scripted

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import AuthorisationError, ConfigError, RejectedError, RemoteError

KEY = "sk-Zr8ahaeZ0ngoh3eCh1ee"
GENERIC = PRESETS["generic"]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as made:
        yield made


def connect(server: FaultyServer, **settings: Any) -> Connection:
    return Connection(Endpoint(base_url=server.url, **settings), GENERIC)


def threads() -> int:
    return sum(one.name == "blackbox-delta-remote" for one in threading.enumerate())


def body(prompt: str) -> bytes:
    return b'{"model": "toy", "prompt": "%s", "max_tokens": 1}' % prompt.encode()


def job(prompt: str) -> Job[str]:
    return Job("completions", lambda: body(prompt), lambda it: str(it["choices"][0]["text"]), 1, 1)


def test_one_request_at_a_time(server: FaultyServer) -> None:
    connection = connect(server)
    assert connection.base_url == server.url
    assert connection.get("models")["data"][0]["id"] == "toy"
    assert connection.get_text("../metrics").startswith("toy:requests_total")
    assert connection.post("completions", body("x"))["object"] == "text_completion"
    with pytest.raises(RejectedError, match="404"):
        connection.get("../nothing")
    connection.close()


def test_a_single_request_is_tried_as_often_as_a_job(
    server: FaultyServer, quick_retries: None
) -> None:
    server.plan = scripted([Fault.ERROR, Fault.HTML, Fault.OVERLOADED, None, *[Fault.ERROR] * 4])
    connection = Connection(Endpoint(base_url=server.url), GENERIC, attempts=4)
    assert connection.post("completions", body("x"))["object"] == "text_completion"
    with pytest.raises(RemoteError, match=f"{server.url} failed 4 times .*: HTTP 500") as caught:
        connection.post("completions", body("x"))
    assert caught.value.__cause__ is None
    assert len(server.requests) == 8
    connection.close()


def test_jobs_are_tried_again_and_what_was_lost_is_counted(
    server: FaultyServer, quick_retries: None
) -> None:
    server.plan = scripted([Fault.ERROR, Fault.OVERLOADED, Fault.HTML])
    connection = connect(server, concurrency=1)
    answers: list[str] = []
    assert connection.send([job("x"), job("y")], lambda it: answers.append(it.value)) == 2
    assert len(answers) == 2
    connection.close()


def test_closing_ends_the_thread_and_the_connections(server: FaultyServer) -> None:
    before = threads()
    connection = connect(server)
    connection.send([job(str(at)) for at in range(20)], lambda _: None)
    assert threads() == before + 1
    connection.close()
    connection.close()
    assert threads() == before
    for call in (lambda: connection.get("models"), lambda: connection.send([], lambda _: None)):
        with pytest.raises(RemoteError, match="open it again"):
            call()


def test_one_that_is_forgotten_ends_too(server: FaultyServer) -> None:
    before = threads()
    connect(server)
    deadline = time.monotonic() + 10
    while threads() > before and time.monotonic() < deadline:
        gc.collect()
    assert threads() == before


FORKING = """
import os, sys
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.wires.presets import PRESETS

connection = Connection(Endpoint(base_url=sys.argv[1]), PRESETS["generic"])
connection.get("models")
child = os.fork()
if child == 0:
    try:
        connection.get("models")
    except Exception as error:
        print(error, flush=True)
    connection.close()
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, len(connection.get("models")["data"]))
"""


def test_a_fork_is_told_to_open_its_own(server: FaultyServer) -> None:
    """In a child process the loop's thread does not exist; nothing may wait for it."""
    command = [sys.executable, "-c", FORKING, server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told, parent = ended.stdout.splitlines()
    assert "open it again" in told
    assert parent == "7 1"
    assert len(server.requests) == 2


# ------------------------------------------------------------------------------ keys


def test_the_presets_key_is_sent_where_it_is_set(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = KEY
    monkeypatch.delenv(GENERIC.key_env, raising=False)
    keyless = connect(server)
    with pytest.raises(AuthorisationError, match="does not accept the API key, or needs one"):
        keyless.get("models")
    keyless.close()
    monkeypatch.setenv(GENERIC.key_env, KEY)
    connection = connect(server)
    assert connection.get("models")["data"]
    assert KEY not in repr(vars(connection))
    connection.close()


def test_a_named_key_goes_before_the_presets(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.key = KEY
    monkeypatch.setenv(GENERIC.key_env, "another-one")
    monkeypatch.setenv("MY_KEY", KEY)
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(KEY)
    for settings in ({"key_env": "MY_KEY"}, {"key_file": file}):
        connection = connect(server, **settings)
        assert connection.get("models")["data"]
        connection.close()


def test_a_key_that_is_not_where_it_should_be(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    before = threads()
    with pytest.raises(AuthorisationError, match="MY_KEY"):
        connect(server, key_env="MY_KEY")
    assert threads() == before


def test_a_known_key_never_goes_to_a_server_that_was_not_told(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GENERIC.key_env, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    connection = connect(server)
    connection.get("models")
    connection.close()
    assert all("authorization" not in one.headers for one in server.requests)


def test_a_key_is_not_sent_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GENERIC.key_env, KEY)
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        Connection(Endpoint(base_url="http://192.0.2.1/v1"), GENERIC)
    assert KEY not in str(caught.value)


def test_nothing_listening_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    connection = Connection(Endpoint(base_url=url), GENERIC)
    began = time.monotonic()
    for call in (lambda: connection.get("models"), lambda: connection.send([job("x")], print)):
        with pytest.raises(RemoteError, match=f"nothing answers at {url}"):
            call()
    assert time.monotonic() - began < 5
    connection.close()
