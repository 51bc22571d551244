"""Opening a remote model: with a probe, without one, or as it was used before."""

from __future__ import annotations

from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.embeddings.table import open_table
from blackbox_delta.backends.remote.endpoint import TIERS, Access, Endpoint, Tier
from blackbox_delta.backends.remote.probe import BATCH, probe
from blackbox_delta.backends.remote.wires.offers import Offer, Preset
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import ConfigError
from blackbox_delta.types import Json


def open_remote(model: str | None, endpoint: Endpoint) -> RemoteBackend:
    """Asks the server what it offers and opens the model accordingly; some 20 queries.

    Args:
        model: Its name there; may be left out where the server has only one.
        endpoint: Where it is.

    Raises:
        BlackBoxDeltaError: See :func:`blackbox_delta.backends.remote.probe.probe`.
    """
    table = None if endpoint.embeddings is None else open_table(endpoint.embeddings)
    found = probe(endpoint, model, table)
    return RemoteBackend(found.model, endpoint, found.access, table)


def assumed_access(endpoint: Endpoint) -> Access:
    """The access that the endpoint's preset lets one expect; nothing is sent.

    A server of an unknown kind is taken for vLLM where embeddings or label words' exact log-
    probabilities are wanted, which no other gives in OpenAI's API; else for the least of them.

    Raises:
        ConfigError: The endpoint makes no sense, or asks for what is not documented.
    """
    preset = endpoint.known_preset or _unknown(endpoint)
    offer = endpoint.offers(preset)[0]
    label_ids = offer.max_label_ids > 0 and offer.wire != "chat"
    return Access.of(
        {
            # A chat's roles and marks; the other defaults fit English text within some percent.
            "overhead": 11.0 if offer.wire == "chat" else None,
            "preset": preset.name,
            "api": offer.wire,
            "tier": _documented_tier(endpoint, preset, offer, label_ids),
            "max_top_k": offer.max_top_k,
            "label_ids": label_ids,
            "tokenizes": endpoint.embeddings is None and preset.tokenizer is not None,
            "batch": min(offer.batch, BATCH),
            "exact_tokens": endpoint.embeddings is not None and "ids" in offer.forms,
        }
    )


def _unknown(endpoint: Endpoint) -> Preset:
    """The kind of server to assume where the host does not tell.

    Only vLLM and its kin take embeddings, or label words' token ids, in OpenAI's API.
    """
    own = PRESETS.get(endpoint.api or "")  # llama.cpp's and SGLang's
    if own is not None:
        return own
    more = endpoint.embeddings is not None or endpoint.tier in ("embeddings", "label-logprobs")
    return PRESETS["vllm" if more else "generic"]


def _documented_tier(endpoint: Endpoint, preset: Preset, offer: Offer, label_ids: bool) -> Tier:
    """The tier that was asked for, or the best one."""
    documented: dict[Tier, bool] = {
        "embeddings": "embeds" in offer.forms,
        "label-logprobs": label_ids,
        "top-tokens": offer.max_top_k > 0,
        "text": True,
    }
    tiers = [tier for tier in TIERS if documented[tier]]
    if endpoint.tier is None:
        return next(it for it in tiers if it != "embeddings" or endpoint.embeddings is not None)
    if endpoint.tier not in tiers:
        raise ConfigError(
            f"the {offer.wire} API of {preset.name} is not documented to offer the tier "
            f"'{endpoint.tier}'; choose one of {', '.join(tiers)}"
        )
    return endpoint.tier


def reopen(model: str, address: Json) -> RemoteBackend:
    """The model as it was used before; nothing is sent.

    An address may come out of a file that somebody else wrote, so one that does not say which key
    to send gets the preset's only at the preset's own hosts and on this machine.

    Args:
        model: Its name on the server.
        address: :attr:`RemoteBackend.address` of that time.

    Raises:
        ConfigError: The address is damaged, or no model is named.
    """
    if not model:
        raise ConfigError("name the model that the server is asked for")
    if set(address) != {"endpoint", "access"} or not all(map(_is_mapping, address.values())):
        raise ConfigError("the model's saved address is damaged: it names no endpoint and access")
    endpoint, access = Endpoint.of(address["endpoint"]), Access.of(address["access"])
    return RemoteBackend(model, endpoint, access, saved=True)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)
