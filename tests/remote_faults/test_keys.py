"""An API key is sent to its server and is nowhere else, whatever that server does with it."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from echo_server import ECHOES, EchoServer, json_reply, raw
from faulty_server import Fault, FaultyServer, scripted
from scenes import LABEL_WORDS, access, split
from typer.testing import CliRunner

from blackbox_delta import TunedModel, TunedModels, tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.backends import open_backend
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.endpoint import Endpoint
from blackbox_delta.backends.remote.probe import probe
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.cli import app
from blackbox_delta.errors import (
    AuthorisationError,
    BlackBoxDeltaError,
    ConfigError,
    FingerprintError,
    RemoteError,
)
from blackbox_delta.types import Json

KEY = 'sk-live/Ab+9="Qz%41w7-Yk_3xJ'
VARIABLE = "SOMEBODYS_KEY"
#: This much of the key is too much.
PIECE = 8
#: Loggers of all who might see the key.
LOGGERS = ["", "blackbox_delta", "httpx", "httpcore", "anyio", "asyncio", "tenacity"]

pytestmark = pytest.mark.usefixtures("no_waiting")


# ------------------------------------------------------------------------- looking for it


_PIECES = re.compile(
    "|".join(re.escape(KEY[at : at + PIECE]) for at in range(len(KEY) - PIECE + 1))
)
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{12,}")


def shows(text: str) -> str | None:
    """Where a text gives the key away, plainly or in an encoding that anybody would try."""
    variants = {text, unquote(text), text.replace("\\", ""), unquote(text.replace("\\", ""))}
    for run in set(_ENCODED.findall(text)):
        variants |= set(decodings(run.replace("-", "+").replace("_", "/")))
    for variant in variants:
        if found := _PIECES.search(variant):
            return variant[max(0, found.start() - 80) : found.end() + 40]
    return None


def decodings(run: str) -> Iterator[str]:
    """What a run of base64 says, wherever it begins in it."""
    for start in range(4):
        whole = run[start : start + (len(run) - start) // 4 * 4]
        try:
            yield base64.b64decode(whole).decode("latin-1")
        except binascii.Error:
            continue


@pytest.mark.parametrize(
    "text",
    [
        f"the key {KEY} is",
        json.dumps({"key": KEY}),
        repr(KEY.encode()),
        "https://x/?k=sk-live%2FAb%2B9%3D%22Qz%2541w7-Yk_3xJ",
        base64.b64encode(KEY.encode()).decode(),
        "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode(),
        base64.urlsafe_b64encode(f"Bearer {KEY}!".encode()).decode().rstrip("="),
        KEY[:12],
    ],
)
def test_the_search_finds_it(text: str) -> None:
    assert shows(text)


def with_locals(error: BaseException) -> str:
    """The traceback of an error and of all that it chains to, with every frame's variables."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(trace.format())


class Seen(logging.Handler):
    """Everything that was shown, logged or stored while a test ran."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.DEBUG)
        self.folder = folder
        self.texts: list[str] = []
        self.loggers: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name.partition(".")[0])
        self.texts += [self.format(record), repr(record.args), repr(record.msg)]

    def error(self, work: Callable[[], object], *kinds: type[BaseException]) -> str:
        """The message of the error that ``work`` ends in; the whole of it is looked through."""
        with pytest.raises(kinds or BlackBoxDeltaError) as caught:
            work()
        self.texts += [with_locals(caught.value), repr(caught.value), repr(vars(caught.value))]
        return str(caught.value)

    def check(self) -> None:
        """Nothing shows the key."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                self.texts.append(path.read_bytes().decode("latin-1"))
        found = [place for place in map(shows, set(self.texts)) if place is not None]
        assert not found


@pytest.fixture
def seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Seen]:
    monkeypatch.setenv(VARIABLE, KEY)
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, name)
    seen = Seen(tmp_path)
    logging.getLogger().addHandler(seen)
    yield seen
    logging.getLogger().removeHandler(seen)
    seen.check()


@pytest.fixture(params=["env", "file"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The two places that a key may be in, as an endpoint names them."""
    if request.param == "env":
        return {"key_env": VARIABLE}
    path = tmp_path_factory.mktemp("home") / "key"
    path.touch(0o600)
    path.write_text(KEY + "\n")
    return {"key_file": path}


SPLIT = split(2, 4, 5)


def opened(url: str, tier: str = "top-tokens", **endpoint: Any) -> RemoteBackend:
    where = Endpoint.of({"base_url": url, "timeout": 10.0, **endpoint})
    return RemoteBackend("toy", where, access(tier, preset="generic"))


def run(backend: RemoteBackend, out: Path) -> Any:
    template = "{text} is {label}"
    with closing(backend):
        return tune(
            backend,
            SPLIT,
            out=out,
            template=template,
            label_words=LABEL_WORDS,
            budget="40 calls",  # more than a server that always fails is tried
        )


# --------------------------------------------------------------------------- what is shown


def test_a_run_on_a_server_that_echoes_it(source: Any, seen: Seen) -> None:
    with EchoServer() as server:
        backend = opened(server.url, **source)
        seen.texts += [repr(backend), str(backend), repr(vars(backend))]
        seen.texts += [json.dumps(backend.address), json.dumps(dict(backend.identity))]
        tuned = run(backend, seen.folder / "run")
        assert {sent["authorization"] for sent in server.headers} == {f"Bearer {KEY}"}
    seen.texts += [repr(tuned), json.dumps(tuned.result), repr(vars(tuned))]
    assert {path.name for path in (seen.folder / "run").iterdir()} >= {
        "run.json",
        "journal.sqlite",
        "history.jsonl",
        "result.json",
        "artifact.json",
        "artifact.safetensors",
    }
    assert {"httpx", "httpcore"} <= seen.loggers


def test_the_parts_of_a_connection_show_nothing(source: Any, seen: Seen) -> None:
    endpoint = Endpoint.of({"base_url": "http://127.0.0.1:9/v1", **source})
    connection = Connection(endpoint, PRESETS["generic"])
    todo: list[Any] = [endpoint, connection]
    while todo:  # into everything of ours that hangs on it
        part = todo.pop()
        seen.texts += [repr(part), str(part), repr(getattr(part, "__dict__", ""))]
        inner = getattr(part, "__dict__", {}).values()
        todo += [one for one in inner if type(one).__module__.startswith("blackbox_delta")]
    connection.close()


@pytest.mark.parametrize("echo", ECHOES)
def test_every_error_of_a_server_that_echoes_it(echo: str, seen: Seen) -> None:
    with EchoServer(ECHOES[echo]) as server:
        backend = opened(server.url, key_env=VARIABLE)
        said = seen.error(lambda: run(backend, seen.folder / "run"), RemoteError)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        where = Endpoint.of({"base_url": server.url, "key_env": VARIABLE})
        seen.error(lambda: probe(where, "toy"), BlackBoxDeltaError)
    assert server.url.removesuffix("/v1") in said
    with EchoServer(models=ECHOES[echo]) as server:
        where = Endpoint.of({"base_url": server.url, "key_env": VARIABLE})
        try:
            seen.texts.append(repr(probe(where, "toy")))
        except BlackBoxDeltaError as error:
            seen.texts.append(with_locals(error))


def models_named(key: str) -> bytes:
    cards = [{"id": f"model of {key}", "owned_by": key}, {"id": "toy\x1b[2J", "owned_by": "x"}]
    cards += [{"id": "plain", "owned_by": "x"}, {"id": "simple", "owned_by": "x"}]
    return json_reply(200, {"data": cards})


@pytest.mark.parametrize("wanted", [None, "another"])
def test_models_that_are_named_after_it(wanted: str | None, seen: Seen) -> None:
    with EchoServer(ECHOES["404 text"], models_named) as server:
        where = Endpoint.of({"base_url": server.url, "key_env": VARIABLE})
        said = seen.error(lambda: probe(where, wanted))
    assert said.endswith("plain, simple")


def test_an_interruption_shows_nothing(seen: Seen) -> None:
    """Ctrl-C while a request is under way."""

    def interrupted(key: str) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return ECHOES["200 key"](key)

    # Shells have their background jobs ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with EchoServer(interrupted) as server:
            backend = opened(server.url, key_env=VARIABLE)
            seen.error(lambda: run(backend, seen.folder / "run"), KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------ the command line


@pytest.mark.parametrize("echo", [None, "401", "200 page", "redirect", "500 page"])
def test_the_command_line_shows_nothing(echo: str | None, source: Any, seen: Seen) -> None:
    data = seen.folder / "data"
    data.mkdir()
    for name, part in (("train", SPLIT.train + SPLIT.dev), ("test", SPLIT.test)):
        rows = [json.dumps({"text": one.text, "label": one.label}) for one in part]
        (data / f"{name}.jsonl").write_text("\n".join(rows))
    [(option, value)] = source.items()
    key = [f"--{option.replace('_', '-')}", str(value)]
    with EchoServer(ECHOES[echo] if echo else None) as server:
        for command in (
            ["probe", server.url, *key],
            ["tune", "--base-url", server.url, "--data", str(data), *key, "--shots", "2"],
        ):
            more = ["--label-words", "a=great,b=terrible", "--out", str(seen.folder / "run")]
            more = more if command[0] == "tune" else []
            result = CliRunner().invoke(app, ["--verbose", *command, *more])
            assert result.exit_code == (1 if echo else 0), result.stderr
            seen.texts += [result.stdout, result.stderr]
            if result.exception is not None:
                seen.texts.append(with_locals(result.exception))
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("option", ["--key", "--api-key", "--token"])
def test_a_key_cannot_be_given_as_an_argument(option: str) -> None:
    """Where every user of the machine could read it."""
    result = CliRunner().invoke(app, ["probe", "http://127.0.0.1:9/v1", option, KEY])
    assert result.exit_code == 2


# ------------------------------------------------------------------------- where it is sent


def test_a_redirect_to_another_server_is_not_followed(seen: Seen) -> None:
    with EchoServer() as other:
        for target in (other.url, other.url.replace("127.0.0.1", "localhost")):
            with FaultyServer(plan=scripted([Fault.REDIRECT]), redirect_to=target) as server:
                backend = opened(server.url, key_env=VARIABLE)
                sending = partial(run, backend, seen.folder / f"to-{target[7:9]}")
                said = seen.error(sending)
            assert "redirects to another server" in said
        away = raw("307 .", Location=other.url + "/models")
        with EchoServer(models=lambda _: away) as server:
            where = Endpoint.of({"base_url": server.url, "key_env": VARIABLE})
            assert "redirects to another server" in seen.error(lambda: probe(where))
        assert not other.headers


def plain_http_elsewhere(folder: Path) -> tuple[dict[str, Any], str]:
    return {"base_url": "http://api.example.com/v1", "key_env": VARIABLE}, "unencrypted"


def readable_by_others(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "key"
    path.write_text(KEY)
    path.chmod(0o640)
    return {"key_file": path}, "chmod 600"


def missing_file(folder: Path) -> tuple[dict[str, Any], str]:
    return {"key_file": folder / "none"}, "cannot be read"


def two_lines(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "key"
    path.touch(0o600)
    path.write_text(f"{KEY}\n# the second line\n")
    return {"key_file": path}, "bare key on one line"


def two_words(folder: Path) -> tuple[dict[str, Any], str]:
    return {"key_env": "TWO_WORDS"}, "bare key on one line"


def empty_variable(folder: Path) -> tuple[dict[str, Any], str]:
    return {"key_env": "EMPTY"}, "is not set"


def unset_variable(folder: Path) -> tuple[dict[str, Any], str]:
    return {"key_env": "UNSET"}, "is not set"


def both(folder: Path) -> tuple[dict[str, Any], str]:
    return {"key_env": VARIABLE, "key_file": folder / "key"}, "not both"


@pytest.mark.parametrize(
    "case",
    [
        plain_http_elsewhere,
        readable_by_others,
        missing_file,
        two_lines,
        two_words,
        empty_variable,
        unset_variable,
        both,
    ],
)
def test_a_key_that_cannot_be_used_stops_everything_before_it_is_sent(
    case: Callable[[Path], tuple[dict[str, Any], str]],
    seen: Seen,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("TWO_WORDS", f"Bearer {KEY}")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("something was sent"))
    options, said = case(tmp_path_factory.mktemp("home"))
    with EchoServer() as server:
        given = {"base_url": server.url, **options}
        kinds = (ConfigError, AuthorisationError)
        assert said in seen.error(lambda: opened(**{"url": given.pop("base_url"), **given}), *kinds)
        given = {"base_url": server.url, **options}
        assert said in seen.error(lambda: probe(Endpoint.of(given), "toy"), *kinds)
        assert not server.headers


# ------------------------------------------------------------------ folders of somebody else's


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes URLs of servers here look as if they were on another machine."""
    find, names = socket.getaddrinfo, ("far.example", b"far.example")

    def found(host: Any, *rest: Any, **more: Any) -> Any:
        return find("127.0.0.1" if host in names else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setenv("NO_PROXY", "*")
    return lambda url: url.replace("127.0.0.1", "far.example")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """What somebody tuned."""
    with EchoServer() as server, closing(opened(server.url)) as backend:
        words = {"template": "{text} is {label}", "label_words": LABEL_WORDS}
        return tune(backend, SPLIT, recipe="search", budget="9 calls", **words).artifact


@pytest.fixture
def received(tmp_path: Path, artifact: Artifact) -> Callable[..., Path]:
    """Makes a run folder as somebody might hand it on, about a server of theirs."""

    def make(url: str, access: Json | None = None, **endpoint: str) -> Path:
        address = {
            "endpoint": {"base_url": url, **endpoint},
            "access": {**artifact.address["access"], **(access or {})},
        }
        # As an earlier version, or an evil one, would have written it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blackbox_delta.artifact._KEY", ())
            replace(artifact, address=address).save(tmp_path / "received")
        assert json.loads((tmp_path / "received" / "artifact.json").read_text())["address"] == (
            address
        )
        return tmp_path / "received"

    return make


@pytest.mark.parametrize("named", ["key_env", "key_file", "preset"])
def test_a_folder_cannot_make_anybody_send_a_key(
    named: str,
    received: Callable[..., Path],
    elsewhere: Callable[[str], str],
    seen: Seen,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    private = tmp_path_factory.mktemp("home") / "token"
    private.touch(0o600)
    private.write_text(KEY)
    said = {"key_env": {"key_env": VARIABLE}, "key_file": {"key_file": str(private)}}
    access = {"preset": "openai", "api": "completions"} if named == "preset" else None
    with EchoServer() as theirs:
        # Of the three sources the last alone is not sent because of where the server is.
        url = elsewhere(theirs.url) if named == "preset" else theirs.url
        folder = received(url, access, **said.get(named, {}))
        done = CliRunner().invoke(app, ["predict", str(folder)], input="a text\n")
        assert done.exit_code == 0, done.output
        for load, asked in (
            (lambda: TunedModel.load(folder), ["a text"]),
            (lambda: TunedModels.load({"me": folder}), [("me", "a text")]),
        ):
            before, tuned = len(theirs.headers), load()
            with closing(tuned.backend):
                tuned.predict(asked)
            assert len(theirs.headers) > before > 0
        assert not any(KEY in value for sent in theirs.headers for value in sent.values())


def test_an_artifact_does_not_say_where_a_key_is(source: Any, seen: Seen) -> None:
    with EchoServer() as server:
        run(opened(server.url, **source), seen.folder / "run")
    for path in (seen.folder / "run").iterdir():
        for value in source.values():
            assert str(value).encode() not in path.read_bytes()


def test_a_key_that_was_kept_back_is_told_of_and_can_be_sent(
    received: Callable[..., Path],
    elsewhere: Callable[[str], str],
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLACKBOX_DELTA_API_KEY", KEY)
    # Else the key would not go over plain http to what looks like another machine.
    with FaultyServer(key=KEY) as theirs:
        folder = received(elsewhere(theirs.url))
        done = CliRunner().invoke(app, ["predict", str(folder)], input="a text\n")
        assert done.exit_code == 1
        told = " ".join(done.stderr.split())
        assert "BLACKBOX_DELTA_API_KEY is set, but no key was sent, for the run's folder" in told
        assert "add --key-env BLACKBOX_DELTA_API_KEY" in told
        assert "authorization" not in theirs.requests[-1].headers
        options = ["--key-env", "BLACKBOX_DELTA_API_KEY"]
        done = CliRunner().invoke(app, ["predict", str(folder), *options], input="a text\n")
        assert "the API key would travel unencrypted to far.example" in done.stderr
        # Naming the server makes it the user's.
        there = ["predict", str(folder), "--base-url", theirs.url]
        assert CliRunner().invoke(app, there, input="a text\n").exit_code == 0
        named = TunedModel.load(received(theirs.url), key_env="BLACKBOX_DELTA_API_KEY")
        assert len(named.predict(["a text"])) == 1
        named.backend.close()


def test_an_address_of_an_open_backend_keeps_the_user_s_key(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a pickle, or a worker of joblib's, asks the same server as the user would."""
    monkeypatch.setenv("BLACKBOX_DELTA_API_KEY", KEY)
    endpoint = Endpoint(base_url="https://api.example.com/v1")
    with closing(RemoteBackend("toy", endpoint, access("text", preset="generic"))) as backend:
        assert backend.address["endpoint"]["key_env"] == "BLACKBOX_DELTA_API_KEY"
        with closing(open_backend("toy", address=backend.address)) as again:
            assert again.address == backend.address
            assert isinstance(again, RemoteBackend)
            assert again._connection._transport._secret is not None


def test_a_name_is_that_of_the_model_on_its_server(
    received: Callable[..., Path], seen: Seen
) -> None:
    with FaultyServer() as server:
        folder = received(server.url)
        for load in (
            partial(TunedModel.load, folder),
            partial(TunedModels.load, {"me": folder}),
        ):
            with pytest.raises(AuthorisationError, match="NO_SUCH_VARIABLE"):
                load(backend="renamed", key_env="NO_SUCH_VARIABLE")
            with closing(load(backend="toy").backend) as backend:
                assert isinstance(backend, RemoteBackend)
            # Of a server that shows no weights nothing but the name tells which model it is.
            with pytest.raises(FingerprintError, match="tuned on 'toy' .* but 'renamed' has other"):
                load(backend="renamed")
