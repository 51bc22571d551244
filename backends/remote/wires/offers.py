"""What is said about a server: the shape of the data in :mod:`.presets`.

Paths are relative to the base URL, which ends in the version (``…/v1/``); ``../`` leads to what
stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from blackbox_delta.backends.remote.wires.wire import Form

WireName: TypeAlias = Literal["completions", "chat", "sglang", "llama.cpp"]
_TEXT: frozenset[Form] = frozenset({"text"})
_KEY = "BLACKBOX_DELTA_API_KEY"


@dataclass(frozen=True)
class Offer:
    """What a server offers on one wire.

    Attributes:
        wire: The form of request and reply.
        path: Where requests are posted to.
        batch: The most prompts in one request.
        forms: How prompts may go out.
        max_top_k: The most top tokens that may be asked for; 0 where log-probabilities are not
            documented.
        max_label_ids: The most tokens whose log-probabilities may be asked for; 0 for none.
        counted: Whether ``logprobs`` is the number of top tokens; otherwise it is ``true`` and
            ``top_logprobs`` is the number (chat only).
        limit_field: The field that limits the answer's length.
        min_output: The least that this limit may be.
        temperature: Whether a temperature of 0 may be sent.
        ids_as_text: Whether tokens can be asked for as ``token_id:N``.
        may_be_fewer: Whether fewer top tokens than asked for are a sound reply.
        extra: Fields that every request carries.
    """

    wire: WireName
    path: str
    batch: int = 1
    forms: frozenset[Form] = _TEXT
    max_top_k: int = 0
    max_label_ids: int = 0
    counted: bool = False
    limit_field: str = "max_tokens"
    min_output: int = 1
    temperature: bool = True
    ids_as_text: bool = False
    may_be_fewer: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class OfferedWire:
    """What every wire takes from its offer.

    Attributes:
        offer: What the server offers on it.
    """

    offer: Offer

    @property
    def name(self) -> str:
        """What presets call it."""
        return self.offer.wire

    @property
    def path(self) -> str:
        """Where it is posted to."""
        return self.offer.path

    @property
    def batches(self) -> bool:
        """Whether a request may hold several prompts."""
        return self.offer.batch > 1


@dataclass(frozen=True)
class TokenizerPath:
    """Where a server turns text into token ids, and the names of the fields."""

    path: str
    text_field: str
    special_field: str


@dataclass(frozen=True)
class Metrics:
    """Where a server counts (in the Prometheus text format), and what it calls the counters.

    Attributes:
        path: Where.
        prompt_tokens: Prompt tokens received.
        cached_tokens: Those of them that were served from the prefix cache; ``None`` if not told.
    """

    path: str
    prompt_tokens: str
    cached_tokens: str | None


@dataclass(frozen=True)
class Preset:
    """One kind of server.

    Attributes:
        name: What users call it.
        base_url: Where it is; ``None`` where that depends on the user.
        hosts: Hosts (or their parent domains, or host:port) that it is recognised by.
        offers: Its wires, the preferred one first.
        auth_header: The header that carries the key.
        auth_scheme: The word before the key; empty for none.
        key_env: The environment variable that holds the key.
        models_path: Where it lists its models; ``None`` where it does not.
        owned_by: What its list of models gives as owner, where that tells the kind of server.
        tokenizer: Where it tokenizes text.
        metrics: Where it counts.
        query: Parameters that every request's URL carries.
        tried: Whether it was run for real, not only read about.
        source: What says so.
    """

    name: str
    offers: tuple[Offer, ...]
    source: str
    base_url: str | None = None
    hosts: tuple[str, ...] = ()
    auth_header: str = "Authorization"
    auth_scheme: str = "Bearer"
    key_env: str = _KEY
    models_path: str | None = "models"
    owned_by: str | None = None
    tokenizer: TokenizerPath | None = None
    metrics: Metrics | None = None
    query: Mapping[str, str] = field(default_factory=dict, hash=False)
    tried: bool = False
