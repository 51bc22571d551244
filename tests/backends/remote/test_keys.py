"""Which key a server is sent depends on who names the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.keys import KeySource, key_options, with_key_source
from blackbox_delta.backends.remote.wires.presets import PRESETS

ELSEWHERE = "https://api.example.com/v1"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset's variable is set."""
    for preset in PRESETS.values():
        monkeypatch.setenv(preset.key_env, "sk-a-key")


def saved(base_url: str, preset: str, **said: Any) -> KeySource:
    return KeySource.of_saved(Endpoint(base_url=base_url, **said), PRESETS[preset])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_user_s_server_gets_the_preset_s_key(preset: str) -> None:
    source = KeySource.of(Endpoint(base_url=ELSEWHERE), PRESETS[preset])
    assert source == KeySource(PRESETS[preset].key_env)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_server_elsewhere_gets_none(preset: str) -> None:
    source = saved(ELSEWHERE, preset)
    assert (source.env, source.file) == (None, None)
    variable = PRESETS[preset].key_env
    assert f"{variable} is set, but no key was sent" in source.kept_back
    assert f"--key-env {variable} " in source.kept_back


@pytest.mark.parametrize(
    ("url", "preset"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://API.OpenAI.com:443/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
        ("https://mine.openai.azure.com/openai/deployments/x", "azure-deployment"),
        ("https://api.together.xyz/v1", "together"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://127.0.0.1:8000/v1", "generic"),
        ("http://[::1]:8000/v1", "vllm"),
    ],
)
def test_a_saved_server_gets_it_where_it_is_at_home(url: str, preset: str) -> None:
    assert saved(url, preset) == KeySource(PRESETS[preset].key_env)


@pytest.mark.parametrize(
    ("url", "preset"),
    [
        ("https://api.openai.com.evil.com/v1", "openai"),
        ("https://evil-api.openai.com/v1", "openai"),
        ("https://api.openai.com:8443.evil.com/v1", "openai"),
        ("https://evil.com/api.openai.com/v1", "openai"),
        ("https://openrouter.ai/api/v1", "openai"),
        ("https://api.openai.com/v1", "generic"),
        ("https://localhost.evil.com/v1", "generic"),
        ("http://192.0.2.1/v1", "generic"),
    ],
)
def test_no_other_host_passes_for_home(url: str, preset: str) -> None:
    try:
        assert saved(url, preset).env is None
    except ValueError as error:
        assert "base URL" in str(error)  # noqa: PT017 - it may be no URL at all


def test_what_the_user_says_holds_for_every_server(tmp_path: Path) -> None:
    for said in ({"key_env": "MY_KEY"}, {"key_file": tmp_path / "key"}):
        endpoint = Endpoint.model_validate({"base_url": ELSEWHERE, **said})
        expected = KeySource(said.get("key_env"), said.get("key_file"))
        for find in (KeySource.of, KeySource.of_saved):
            assert find(endpoint, PRESETS["openai"]) == expected


def test_nothing_is_kept_back_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "is set" not in saved(ELSEWHERE, "openai").kept_back
    assert "--key-env VARIABLE" in saved(ELSEWHERE, "openai").kept_back
    assert saved("https://api.openai.com/v1", "openai").env is None


def test_a_source_that_is_written_out_is_the_user_s_word(tmp_path: Path) -> None:
    named = with_key_source(Endpoint(base_url=ELSEWHERE), "generic")
    assert named.key_env == PRESETS["generic"].key_env
    assert KeySource.of_saved(named, PRESETS["generic"]).env == named.key_env
    filed = Endpoint(base_url=ELSEWHERE, key_file=tmp_path / "key")
    assert with_key_source(filed, "generic") == filed
    assert with_key_source(filed, "no such preset") == filed


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        ({"base_url": ELSEWHERE}, ["--key-env", "BLACKBOX_DELTA_API_KEY"]),
        ({"base_url": ELSEWHERE, "preset": "openai"}, ["--key-env", "OPENAI_API_KEY"]),
        ({"base_url": "https://api.openai.com/v1"}, []),
        ({"base_url": "http://127.0.0.1:8000/v1"}, []),
        ({"base_url": "http://127.0.0.1:8000/v1", "key_env": "MY_KEY"}, ["--key-env", "MY_KEY"]),
        ({"base_url": ELSEWHERE, "key_file": "my key"}, ["--key-file", "my key"]),
    ],
)
def test_the_options_that_a_saved_run_needs(endpoint: Any, options: list[str]) -> None:
    assert key_options(Endpoint.of(endpoint)) == options
