"""Where a server is: what is refused, what is recognised, what can be written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote import Access, Endpoint
from blackbox_delta.backends.remote.endpoint import TIERS, plain
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import ConfigError

URL = "http://127.0.0.1:8000/v1"
VLLM = {"preset": "vllm", "api": "completions"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "base_url"),
        ({"base_url": URL, "tier": "telepathy"}, "tier: .*embeddings"),
        ({"base_url": URL, "api": "telnet"}, "api: .*completions"),
        ({"base_url": URL, "concurrency": 0}, "concurrency: .*greater than or equal to 1"),
        ({"base_url": URL, "timeout": float("inf")}, "timeout: "),
        ({"base_url": URL, "timeout": float("nan")}, "timeout: "),
        ({"base_url": URL, "requests_per_minute": -1}, "requests_per_minute: "),
        ({"base_url": URL, "tokens_per_minute": "many"}, "tokens_per_minute: "),
        ({"base_url": URL, "time_out": 3}, "^time_out is unknown; known are base_url, .*timeout"),
        (
            {"base_url": URL, "api_key": "sk-1234567890"},
            "^api_key is not taken; .*key_env or key_file",
        ),
        ({"base_url": URL, "tier": "x", "timeout": 0}, "tier: .*; timeout: "),
    ],
)
@pytest.mark.parametrize("make", [Endpoint.of, lambda values: Endpoint(**values)])
def test_what_makes_no_sense_is_refused_in_one_line(
    make: Callable[[dict[str, Any]], Endpoint], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make(values)
    message = str(caught.value)
    assert "\n" not in message
    assert "sk-1234567890" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "ftp://example.org", "http://[::1", "http://x:port/v1", "https://a?key=b"],
)
@pytest.mark.parametrize("preset", [None, "vllm"])
def test_a_url_that_makes_no_sense_is_refused(url: str, preset: str | None) -> None:
    with pytest.raises(ConfigError, match="base URL"):
        Endpoint(base_url=url, preset=preset)


def test_a_password_in_the_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="password") as caught:
        Endpoint(base_url="https://me:hunter2@example.org/v1")
    assert "hunter2" not in str(caught.value)


def test_nothing_stands_for_the_default() -> None:
    assert Endpoint.of({"base_url": URL, "concurrency": None}) == Endpoint(base_url=URL)


def test_the_preset_is_the_named_one_or_the_hosts() -> None:
    openai = "https://api.openai.com/v1"
    assert Endpoint(base_url=openai).known_preset is PRESETS["openai"]
    assert Endpoint(base_url=openai, preset="vllm").known_preset is PRESETS["vllm"]
    assert Endpoint(base_url=URL).known_preset is None
    with pytest.raises(ConfigError, match="no preset 'vlm'; choose one of vllm, "):
        Endpoint(base_url=URL, preset="vlm").known_preset  # noqa: B018


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_an_api_is_the_presets_or_refused(preset: Any) -> None:
    assert Endpoint(base_url=URL).offers(preset) == preset.offers
    known = {offer.wire: offer for offer in preset.offers}
    for wire in ("completions", "chat", "sglang", "llama.cpp"):
        endpoint = Endpoint.of({"base_url": URL, "api": wire})
        if wire in known:
            assert endpoint.offers(preset) == (known[wire],)
        else:
            with pytest.raises(ConfigError, match=rf"no {wire} API; choose one of .*{min(known)}"):
                endpoint.offers(preset)


def test_values_do_not_change() -> None:
    endpoint = Endpoint(base_url=URL)
    with pytest.raises(ValueError, match="frozen"):
        endpoint.base_url = "https://elsewhere.example.org"


endpoints = st.builds(
    Endpoint,
    base_url=st.just(URL),
    preset=st.sampled_from([None, "vllm", "openai"]),
    api=st.sampled_from([None, "chat", "llama.cpp"]),
    tier=st.sampled_from([None, *TIERS]),
    embeddings=st.sampled_from([None, "pkg:some-model"]),
    key_file=st.sampled_from([None, Path("/somewhere/key")]),
    concurrency=st.integers(1, 1024),
    requests_per_minute=st.none() | st.integers(1, 10**6),
    timeout=st.floats(0.001, 1e6),
)
accesses = st.builds(
    Access,
    preset=st.just("vllm"),
    api=st.sampled_from(["chat", "completions"]),
    tier=st.sampled_from(TIERS),
    max_top_k=st.integers(0, 100),
    label_ids=st.booleans(),
    bias=st.sampled_from([0.0, 10.0]),
    max_length=st.none() | st.integers(1, 10**6),
    tokens_per_byte=st.floats(1e-3, 10),
)


@given(value=endpoints | accesses)
@settings(deadline=None)
def test_both_come_back_from_json_as_they_are(value: Endpoint | Access) -> None:
    written = json.dumps(plain(value), allow_nan=False)
    assert type(value).of(json.loads(written)) == value


def test_defaults_are_not_written_down() -> None:
    assert plain(Endpoint(base_url=URL)) == {"base_url": URL}


@given(access=accesses)
@settings(deadline=None)
def test_a_tier_asks_for_no_more_than_its_name_says(access: Access) -> None:
    labelled = access.tier in ("embeddings", "label-logprobs")
    assert access.asks_label_ids == (labelled and access.label_ids)
    assert access.asks_bias == (access.bias if labelled else 0.0)
    assert access.asks_top == (0 if access.tier == "text" else access.max_top_k)
