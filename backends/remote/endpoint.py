"""Where a remote model is, and how it was found to be spoken to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from blackbox_delta.backends.remote.http.address import parse_base_url
from blackbox_delta.backends.remote.wires.offers import Offer, Preset, WireName
from blackbox_delta.backends.remote.wires.presets import PRESETS, preset_for
from blackbox_delta.errors import ConfigError

#: What a server lets in and out, the best first.
Tier: TypeAlias = Literal["embeddings", "label-logprobs", "top-tokens", "text"]
TIERS: tuple[Tier, ...] = ("embeddings", "label-logprobs", "top-tokens", "text")
#: Those in which label words are asked for; below them, one takes what comes.
_LABELLED: tuple[Tier, ...] = ("embeddings", "label-logprobs")


class _Checked(BaseModel):
    """Immutable values; what makes no sense is refused with this package's error.

    Raises:
        ConfigError: A name is unknown or a value makes no sense. The value is not repeated: it may
            be a key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(error, type(self).model_fields)) from None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Checked values; ``None`` stands for the default.

        Raises:
            ConfigError: A name is unknown or a value makes no sense.
        """
        return cls(**{name: value for name, value in values.items() if value is not None})


class Endpoint(_Checked):
    """Where a model is served, and how much may be asked of it at once.

    Attributes:
        base_url: Such as ``https://api.openai.com/v1`` or ``http://127.0.0.1:8000/v1``.
        preset: Kind of server, a name in :data:`PRESETS`; ``None`` to find out.
        api: Form of the requests, ``"completions"``, ``"chat"``, …; ``None`` to find out.
        tier: The access to use; ``None`` for the best that the server offers.
        embeddings: Where the model's embedding table and tokenizer are: a folder, a ``.gguf``
            file or ``pkg:NAME``. Without it nothing but text is sent.
        key_env: The environment variable that holds the API key; ``None`` for the preset's,
            where it is set.
        key_file: A file that holds the key and that its owner alone can read.
        concurrency: The most requests in flight; fewer are used where the server is slower.
        requests_per_minute: The most requests sent in a minute.
        tokens_per_minute: The most prompt tokens sent in a minute.
        timeout: Seconds for one request.
    """

    base_url: str
    preset: str | None = None
    api: WireName | None = None
    tier: Tier | None = None
    embeddings: str | None = None
    key_env: str | None = None
    key_file: Path | None = None
    concurrency: int = Field(default=64, ge=1, le=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, base_url: str) -> str:
        parse_base_url(base_url)
        return base_url

    @property
    def known_preset(self) -> Preset | None:
        """The preset that was named, or that the host tells.

        Raises:
            ConfigError: No preset of that name.
        """
        if self.preset is None:
            return preset_for(self.base_url)
        if self.preset not in PRESETS:
            raise ConfigError(
                f"there is no preset '{self.preset}'; choose one of {', '.join(PRESETS)}"
            )
        return PRESETS[self.preset]

    def offers(self, preset: Preset) -> tuple[Offer, ...]:
        """The preset's offers, or the one that was asked for.

        Raises:
            ConfigError: The server does not have it.
        """
        offers = tuple(offer for offer in preset.offers if self.api in (None, offer.wire))
        if not offers:
            known = ", ".join(offer.wire for offer in preset.offers)
            raise ConfigError(f"{preset.name} has no {self.api} API; choose one of {known}")
        return offers


class Access(_Checked):
    """How a server is used: what a probe found out, or what a preset lets one assume.

    Attributes:
        preset: Kind of server.
        api: Form of the requests.
        tier: What goes in and comes out.
        max_top_k: Top tokens that it returns at most.
        label_ids: Whether it gives the log-probabilities of chosen tokens.
        tokenizes: Whether it tells the token ids of a text.
        bias: Added to the label words' logits to bring them among the top tokens, where the
            reported log-probabilities are taken after it; 0 for none.
        batch: Prompts in one request.
        max_length: The model's context in tokens; ``None`` where it is not known.
        exact_tokens: Whether prompt tokens can be counted beforehand.
        tokens_per_byte: Prompt tokens for a byte of text, where they cannot.
        overhead: Prompt tokens that every request has beside its text, likewise.
        temperature: Whether a temperature of 0 is sent; reasoning models refuse it.
    """

    preset: str
    api: WireName
    tier: Tier
    max_top_k: int = Field(default=0, ge=0)
    label_ids: bool = False
    tokenizes: bool = False
    bias: float = Field(default=0.0, allow_inf_nan=False)
    batch: int = Field(default=1, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    exact_tokens: bool = False
    tokens_per_byte: float = Field(default=0.22, gt=0, allow_inf_nan=False)
    overhead: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    temperature: bool = True

    @property
    def asks_top(self) -> int:
        """Top tokens that may be asked for in this tier."""
        return 0 if self.tier == "text" else self.max_top_k

    @property
    def asks_label_ids(self) -> bool:
        """Whether chosen tokens are asked for in this tier."""
        return self.label_ids and self.tier in _LABELLED

    @property
    def asks_bias(self) -> float:
        """What label words are lifted by in this tier; 0 for nothing."""
        return self.bias if self.tier in _LABELLED else 0.0


def _explain(error: ValidationError, known: Iterable[str]) -> str:
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(_explained(problem, known) for problem in problems)


def _explained(problem: ErrorDetails, known: Iterable[str]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # our own sentence, which names what is wrong
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "extra_forbidden":
        return f"{name}: {problem['msg'].lower()}"
    if "key" in name.lower():
        return f"{name} is not taken; say where the key is, with key_env or key_file"
    return f"{name} is unknown; known are {', '.join(known)}"


def plain(model: BaseModel) -> dict[str, Any]:
    """Its fields as JSON values, defaults left out."""
    return model.model_dump(mode="json", exclude_defaults=True)
