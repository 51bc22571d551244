"""How servers differ, as data.

What a field says is what the server's documentation says (``source``); ``tried`` marks the
servers that were run for real. A probe may find that one server offers more or less, and takes
a copy of its preset with those fields replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from blackbox_delta.backends.remote.wires.offers import Metrics, Offer, Preset, TokenizerPath
from blackbox_delta.backends.remote.wires.wire import Form

_ALL_FORMS: frozenset[Form] = frozenset({"text", "ids", "embeds"})
_TEXT_OR_IDS: frozenset[Form] = frozenset({"text", "ids"})

# A model's generation_config.json may set a penalty that would move the sampled token.
_NO_PENALTY = {"repetition_penalty": 1.0}

_VLLM = Preset(
    name="vllm",
    base_url="http://localhost:8000/v1",
    offers=(
        Offer(
            wire="completions",
            path="completions",
            batch=64,  # the server's own limit is 1024
            forms=_ALL_FORMS,
            max_top_k=20,  # --max-logprobs may raise it
            max_label_ids=128,
            counted=True,
            ids_as_text=True,
            extra=_NO_PENALTY,
        ),
        Offer(
            wire="chat",
            path="chat/completions",
            max_top_k=20,
            max_label_ids=128,
            ids_as_text=True,
            extra=_NO_PENALTY,
        ),
    ),
    owned_by="vllm",
    tokenizer=TokenizerPath("../tokenize", "prompt", "add_special_tokens"),
    metrics=Metrics("../metrics", "vllm:prompt_tokens_total", "vllm:prefix_cache_hits_total"),
    tried=True,
    source="vLLM 0.32: docs/serving/openai_compatible_server, entrypoints/openai/*/protocol.py",
)

_LLAMA_CPP = Preset(
    name="llama.cpp",
    offers=(
        Offer(
            wire="llama.cpp",
            path="../completion",
            forms=_TEXT_OR_IDS,
            max_top_k=100,  # no limit is documented
        ),
        Offer(wire="completions", path="completions", max_top_k=100, counted=True),
        Offer(wire="chat", path="chat/completions", max_top_k=100),
    ),
    owned_by="llamacpp",
    tokenizer=TokenizerPath("../tokenize", "content", "add_special"),
    metrics=Metrics("../metrics", "llamacpp:prompt_tokens_total", None),  # with --metrics
    tried=True,
    source="llama.cpp: tools/server/README.md, tools/server/server-task.cpp",
)

_SGLANG = Preset(
    name="sglang",
    base_url="http://localhost:30000/v1",
    offers=(
        Offer(
            wire="sglang",
            path="../generate",
            batch=64,
            forms=_ALL_FORMS,  # embeddings need --disable-radix-cache
            max_top_k=100,  # no limit is documented
            max_label_ids=128,  # no limit is documented
        ),
        Offer(
            wire="chat",
            path="chat/completions",
            max_top_k=20,
            may_be_fewer=True,
        ),
    ),
    owned_by="sglang",
    tokenizer=TokenizerPath("../tokenize", "prompt", "add_special_tokens"),
    metrics=Metrics("../metrics", "sglang:prompt_tokens_total", "sglang:cached_tokens_total"),
    source="SGLang: docs/basic_usage/sampling_params, native_api, references/production_metrics",
)

_OPENAI_CHAT = Offer(
    wire="chat",
    path="chat/completions",
    max_top_k=20,  # refused by reasoning models
    limit_field="max_completion_tokens",
    may_be_fewer=True,
)

_OPENAI = Preset(
    name="openai",
    base_url="https://api.openai.com/v1",
    hosts=("api.openai.com",),
    offers=(
        _OPENAI_CHAT,
        Offer(
            wire="completions",
            path="completions",
            batch=16,
            forms=_TEXT_OR_IDS,
            max_top_k=5,
            counted=True,
            may_be_fewer=True,
        ),
    ),
    key_env="OPENAI_API_KEY",
    source="OpenAI: openapi.yaml (CreateChatCompletionRequest, CreateCompletionRequest)",
)

_AZURE = Preset(
    name="azure",
    hosts=("openai.azure.com",),
    offers=(_OPENAI_CHAT,),
    auth_header="api-key",
    auth_scheme="",
    key_env="AZURE_OPENAI_API_KEY",
    source="Azure OpenAI: api-version-lifecycle (base URL https://NAME.openai.azure.com/openai/v1)",
)

_AZURE_DEPLOYMENT = Preset(
    name="azure-deployment",
    offers=(Offer(wire="chat", path="chat/completions", max_top_k=20, may_be_fewer=True),),
    auth_header="api-key",
    auth_scheme="",
    key_env="AZURE_OPENAI_API_KEY",
    models_path=None,
    query={"api-version": "2024-10-21"},
    source="Azure OpenAI: api-version-lifecycle (base URL …/openai/deployments/NAME)",
)

_GEMINI = Preset(
    name="gemini",
    base_url="https://generativelanguage.googleapis.com/v1beta/openai",
    hosts=("generativelanguage.googleapis.com",),
    offers=(Offer(wire="chat", path="chat/completions", limit_field="max_completion_tokens"),),
    key_env="GEMINI_API_KEY",
    source="Gemini: docs/openai and api/compatibility (which list no logprobs)",
)

_ANTHROPIC = Preset(
    name="anthropic",
    base_url="https://api.anthropic.com/v1",
    hosts=("api.anthropic.com",),
    offers=(Offer(wire="chat", path="chat/completions"),),
    key_env="ANTHROPIC_API_KEY",
    models_path=None,
    source="Anthropic: docs/en/api/openai-sdk (logprobs and logit_bias are ignored)",
)

_TOGETHER = Preset(
    name="together",
    base_url="https://api.together.ai/v1",
    hosts=("api.together.ai", "api.together.xyz"),
    offers=(
        Offer(
            wire="chat",
            path="chat/completions",
            max_top_k=20,
            counted=True,
            may_be_fewer=True,
        ),
        Offer(
            wire="completions",
            path="completions",
            max_top_k=20,
            counted=True,
            may_be_fewer=True,
        ),
    ),
    key_env="TOGETHER_API_KEY",
    source="Together: openapi.yaml, docs/logprobs",
)

_OPENROUTER = Preset(
    name="openrouter",
    base_url="https://openrouter.ai/api/v1",
    hosts=("openrouter.ai",),
    offers=(
        Offer(
            wire="chat",
            path="chat/completions",
            max_top_k=20,
            min_output=16,  # OpenAI's models behind it refuse less
            may_be_fewer=True,
            extra={"provider": {"require_parameters": True}},
        ),
    ),
    key_env="OPENROUTER_API_KEY",
    source="OpenRouter: docs/api-reference/parameters, features/provider-routing",
)

_OLLAMA = Preset(
    name="ollama",
    base_url="http://localhost:11434/v1",
    hosts=("localhost:11434", "127.0.0.1:11434"),
    offers=(
        Offer(wire="chat", path="chat/completions", max_top_k=20, may_be_fewer=True),
        Offer(
            wire="completions", path="completions", max_top_k=20, counted=True, may_be_fewer=True
        ),
    ),
    source="Ollama: docs/api/openai-compatibility, openai/openai.go",
)

_GENERIC = Preset(
    name="generic",
    offers=(
        Offer(
            wire="completions",
            path="completions",
            forms=_TEXT_OR_IDS,
            max_top_k=5,
            counted=True,
            may_be_fewer=True,
        ),
        Offer(wire="chat", path="chat/completions", max_top_k=20, may_be_fewer=True),
    ),
    source="none: what OpenAI's API has in common with its imitations",
)

#: Every preset by its name.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _VLLM,
            _LLAMA_CPP,
            _SGLANG,
            _OPENAI,
            _AZURE,
            _AZURE_DEPLOYMENT,
            _GEMINI,
            _ANTHROPIC,
            _TOGETHER,
            _OPENROUTER,
            _OLLAMA,
            _GENERIC,
        )
    }
)


def preset_for(url: str) -> Preset | None:
    """The preset of a well-known address; ``None`` where the host does not tell."""
    parts = urlsplit(url)
    try:
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # the port is no number
        return None
    for preset in PRESETS.values():
        if any(
            name in (host, f"{host}:{port}") or host.endswith(f".{name}") for name in preset.hosts
        ):
            if preset is _AZURE and "/openai/deployments/" in parts.path:
                return _AZURE_DEPLOYMENT
            return preset
    return None


def preset_of_owner(owner: str) -> Preset | None:
    """The preset whose server writes ``owner`` as ``owned_by`` into its list of models."""
    return next(
        (p for p in PRESETS.values() if p.owned_by is not None and p.owned_by == owner), None
    )
