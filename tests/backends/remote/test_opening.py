"""Opening a remote model: what is assumed, what is asked, what is remembered."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote import Access, Endpoint
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.opening import assumed_access, open_remote, reopen
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import ConfigError, RemoteError, UnsupportedError
from blackbox_delta.types import AnswerSlot, Prompt, ScoreRequest, SoftSlot, Words
from servers import ModelServer

URL = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def _no_connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks nothing needs no network."""
    if "server" not in request.fixturenames:

        def refuse(*_: Any) -> None:
            raise AssertionError("something was sent")

        monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({}, {"preset": "generic", "api": "completions", "tier": "top-tokens", "max_top_k": 5}),
        # Of the servers that no host tells, these alone take embeddings.
        ({"embeddings": "x"}, {"preset": "vllm", "api": "completions", "tier": "embeddings"}),
        ({"embeddings": "x", "preset": "generic"}, {"preset": "generic", "tier": "top-tokens"}),
        ({"embeddings": "x", "api": "chat"}, {"preset": "vllm", "tier": "top-tokens"}),
        ({"preset": "vllm"}, {"tier": "label-logprobs", "label_ids": True, "tokenizes": True}),
        (
            {"preset": "vllm", "embeddings": "x"},
            {"tier": "embeddings", "tokenizes": False, "exact_tokens": True},
        ),
        ({"preset": "vllm", "api": "chat"}, {"tier": "top-tokens", "label_ids": False}),
        ({"tier": "label-logprobs"}, {"preset": "vllm", "label_ids": True}),
        ({"api": "llama.cpp"}, {"preset": "llama.cpp", "tier": "top-tokens", "tokenizes": True}),
        ({"api": "sglang", "embeddings": "x"}, {"preset": "sglang", "tier": "embeddings"}),
        ({"preset": "sglang", "embeddings": "x"}, {"api": "sglang", "tier": "embeddings"}),
        ({"base_url": "https://api.openai.com/v1"}, {"preset": "openai", "api": "chat"}),
        ({"base_url": "https://api.anthropic.com/v1"}, {"preset": "anthropic", "tier": "text"}),
        ({"preset": "vllm", "tier": "text"}, {"tier": "text"}),
        ({"preset": "vllm", "tier": "top-tokens"}, {"tier": "top-tokens"}),
    ],
    ids=str,
)
def test_an_unasked_server_is_taken_at_its_word(endpoint: Any, expected: Any) -> None:
    access = assumed_access(Endpoint.of({"base_url": URL, **endpoint}))
    assert {name: getattr(access, name) for name in expected} == expected


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tier", [None, "text"])
def test_every_preset_can_be_taken_at_its_word(name: str, tier: str | None, folder: Path) -> None:
    for embeddings in (None, str(folder)):
        given = {"base_url": URL, "preset": name, "tier": tier, "embeddings": embeddings}
        endpoint = Endpoint.of(given)
        backend = RemoteBackend("m", endpoint, assumed_access(endpoint))
        prompt = Prompt((Words("so", truncatable=True), SoftSlot("soft"), AnswerSlot()))
        request = ScoreRequest([prompt], (" great", " terrible"))
        assert backend.count_tokens(request)[0] > 0
        assert (embeddings is None) <= (backend.embedding_table is None)
        backend.close()


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({"preset": "vlm"}, "no preset 'vlm'"),
        ({"preset": "openai", "api": "llama.cpp"}, "openai has no llama.cpp API"),
        ({"base_url": "no url"}, "base URL"),
        ({"base_url": "http://[::1"}, "base URL"),
        ({"tier": "embeddings"}, "embeddings="),
        (
            {"tier": "embeddings", "preset": "openai", "embeddings": "x"},
            "chat API of openai is not documented .* 'embeddings'; choose one of top-tokens, text",
        ),
        ({"tier": "embeddings", "api": "chat", "embeddings": "x"}, "not documented"),
        ({"tier": "label-logprobs", "api": "chat"}, "not documented"),
        ({"tier": "label-logprobs", "preset": "llama.cpp"}, "not documented"),
        ({"tier": "top-tokens", "preset": "gemini"}, "not documented .*; choose one of text$"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(endpoint: Any, said: str) -> None:
    def opened() -> RemoteBackend:
        given = Endpoint.of({"base_url": URL, **endpoint})
        return RemoteBackend("m", given, assumed_access(given))

    with pytest.raises(ConfigError, match=said) as caught:
        opened()
    assert "\n" not in str(caught.value)


def test_an_opened_one_has_the_access_that_was_found(server: ModelServer, folder: Path) -> None:
    backend = open_remote(None, Endpoint(base_url=server.url, embeddings=str(folder)))
    assert backend.name == "toy"
    access = Access.of(backend.address["access"])
    assert (access.preset, access.tier, access.max_length) == ("vllm", "embeddings", 512)
    assert backend.capabilities.deltas == {"soft-prompt"}
    assert backend.embedding_table is not None
    backend.close()


def test_what_a_probe_says_is_said(server: ModelServer) -> None:
    with pytest.raises(RemoteError, match="does not serve 'gpt'"):
        open_remote("gpt", Endpoint(base_url=server.url))
    with pytest.raises(UnsupportedError, match="does not offer the tier 'embeddings'"):
        open_remote("toy", Endpoint(base_url=server.url, tier="embeddings"))


def test_a_temperature_that_was_refused_is_never_sent_again(
    server: ModelServer, folder: Path
) -> None:
    """Neither by the run nor by whoever opens what it saved."""
    server.refuses = {"temperature"}
    first = open_remote(None, Endpoint(base_url=server.url, embeddings=str(folder)))
    second = reopen("toy", first.address)
    server.requests.clear()
    request = ScoreRequest([Prompt((Words("so"), AnswerSlot()))], (" great", " terrible"))
    for backend in (first, second):
        assert backend.score(request).usage.queries == 1
        backend.close()
    assert [("temperature" in body) for body in server.bodies()] == [False, False]


ADDRESS = {
    "endpoint": {"base_url": URL},
    "access": {"preset": "vllm", "api": "completions", "tier": "text"},
}


def test_a_saved_address_is_enough() -> None:
    backend = reopen("m", ADDRESS)
    assert backend.address == ADDRESS
    assert backend.name == "m"
    backend.close()


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("", {}, "name the model"),
        ("m", {"endpoint": None}, "address is damaged"),
        ("m", {"access": [1]}, "address is damaged"),
        ("m", {"more": {}}, "address is damaged"),
        ("m", {"endpoint": {}}, "base_url"),
        ("m", {"endpoint": {"base_url": "x"}}, "base URL"),
        ("m", {"access": {}}, "preset: .*; api: .*; tier: "),
        ("m", {"access": {**ADDRESS["access"], "preset": "vlm"}}, "no preset 'vlm'"),
        ("m", {"access": {**ADDRESS["access"], "api": "sglang"}}, "no sglang API"),
        ("m", {"access": {**ADDRESS["access"], "batch": 0}}, "batch: "),
        ("m", {"access": {**ADDRESS["access"], "newer": 1}}, "newer is unknown; known are "),
        ("m", {"access": {**ADDRESS["access"], "tier": "embeddings"}}, "embeddings=FOLDER"),
    ],
)
def test_a_damaged_address_is_one_readable_error(model: str, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        reopen(model, {**ADDRESS, **changes})
    assert "\n" not in str(caught.value)


def test_an_address_may_lack_a_part() -> None:
    with pytest.raises(ConfigError, match="address is damaged"):
        reopen("m", {"endpoint": {"base_url": URL}})
