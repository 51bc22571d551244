"""The presets: complete, consistent, and found by their addresses."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest

from blackbox_delta.backends.remote.wires import open_wire
from blackbox_delta.backends.remote.wires.offers import Preset
from blackbox_delta.backends.remote.wires.presets import PRESETS, preset_for, preset_of_owner
from blackbox_delta.backends.remote.wires.server_table import table
from blackbox_delta.backends.remote.wires.wire import Ask

EVERY = list(PRESETS.values())


def test_every_server_is_there() -> None:
    wanted = (
        "vllm llama.cpp sglang openai azure gemini anthropic together openrouter ollama generic"
    )
    assert set(wanted.split()) <= set(PRESETS)


@pytest.mark.parametrize("preset", EVERY, ids=lambda preset: preset.name)
def test_a_preset_is_consistent(preset: Preset) -> None:
    assert preset.offers
    assert preset.source
    assert preset.key_env.endswith("_API_KEY")
    assert (preset.auth_scheme == "Bearer") == (preset.auth_header == "Authorization")
    assert preset.base_url is None or not preset.base_url.endswith("/")
    assert len({offer.wire for offer in preset.offers}) == len(preset.offers)
    for offer in preset.offers:
        wire = open_wire(offer)
        assert (wire.name, wire.path) == (offer.wire, offer.path)
        assert wire.batches == (offer.batch > 1)
        assert not offer.path.startswith("/")
        assert offer.max_label_ids == 0 or offer.ids_as_text or offer.wire == "sglang"
        body = wire.body(["It was"], Ask("m", max_tokens=1))
        assert not {"logprobs", "n_probs", "return_logprob"} & set(body)
    if preset.base_url is not None and preset.hosts:
        assert preset_for(preset.base_url) is preset


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1/", "openai"),
        ("https://API.OpenAI.com./v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
        ("https://mine.openai.azure.com/openai/deployments/gpt/", "azure-deployment"),
        ("https://api.together.xyz/v1", "together"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://127.0.0.1:8123/v1", None),
        ("https://api.openai.com.example.org/v1", None),
        ("https://notopenai.azure.com.example/", None),
        ("https://example.org/api.openai.com", None),
        ("http://example.org:port/", None),
        ("", None),
    ],
)
def test_a_server_is_known_by_its_host_alone(url: str, name: str | None) -> None:
    found = preset_for(url)
    assert (None if found is None else found.name) == name


def test_a_server_is_known_by_its_list_of_models() -> None:
    assert preset_of_owner("vllm") is PRESETS["vllm"]
    assert preset_of_owner("llamacpp") is PRESETS["llama.cpp"]
    assert preset_of_owner("library") is None


def test_paths_lead_beside_the_base_url() -> None:
    base = "http://host/proxy/v1/"
    sglang, vllm = PRESETS["sglang"], PRESETS["vllm"]
    assert urljoin(base, sglang.offers[0].path) == "http://host/proxy/generate"
    assert urljoin(base, vllm.offers[0].path) == "http://host/proxy/v1/completions"


def test_the_table_says_what_was_tried() -> None:
    rows = {row.server: row for row in table()}
    assert set(rows) == set(PRESETS)
    vllm, openai, anthropic = rows["vllm"], rows["openai"], rows["anthropic"]
    assert (vllm.embeddings, vllm.labels, vllm.checked) == ("yes", "exact, up to 128", "tried")
    assert (openai.labels, openai.top_tokens, openai.checked) == (
        "from top tokens",
        "20",
        "documented",
    )
    assert (anthropic.labels, anthropic.top_tokens, anthropic.text) == ("no", "no", "chat")
