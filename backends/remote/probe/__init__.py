"""Finds out with a handful of queries what a server offers, and which access is the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.embeddings.table import TableFile, open_table
from blackbox_delta.backends.remote.endpoint import TIERS, Access, Endpoint, Tier
from blackbox_delta.backends.remote.http.failures import FailedError
from blackbox_delta.backends.remote.probe import soundings
from blackbox_delta.backends.remote.probe.inquiry import Finding, Inquiry
from blackbox_delta.backends.remote.probe.measurements import measure
from blackbox_delta.backends.remote.wires.offers import Offer, Preset
from blackbox_delta.backends.remote.wires.presets import PRESETS, preset_of_owner
from blackbox_delta.backends.remote.wires.wire import WireReply
from blackbox_delta.errors import ConfigError, RejectedError, RemoteError, UnsupportedError

__all__ = ["BATCH", "Finding", "Probe", "probe"]

#: Prompts in one request, at most: a lost reply loses no more than these.
BATCH = 16
#: A question is tried so often; a server that is well answers at once.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Probe:
    """What a server was found to offer.

    Attributes:
        endpoint: Where it is.
        model: The model that was asked.
        findings: Everything that was found, in the order it was looked for.
        access: The access that is recommended, or that was asked for.
        queries: Queries that were spent.
    """

    endpoint: Endpoint
    model: str
    findings: tuple[Finding, ...]
    access: Access
    queries: int


def probe(endpoint: Endpoint, model: str | None = None, table: TableFile | None = None) -> Probe:
    """Asks a server what it offers.

    Args:
        endpoint: Where it is.
        model: The model's name there; may be left out where the server has only one.
        table: The endpoint's embedding table, if it is open already.

    Raises:
        RemoteError: It cannot be reached, or does not serve the model.
        AuthorisationError: It does not accept the key.
        ConfigError: The endpoint makes no sense, or several models are served and none was named.
        ModelError: The embedding table cannot be read, or belongs to another model.
        UnsupportedError: It lacks the tier that the endpoint asks for, or text is all that it gives
            and it gives none.
    """
    if table is None and endpoint.embeddings is not None:
        table = open_table(endpoint.embeddings)
    preset = endpoint.known_preset
    connection = Connection(endpoint, preset or PRESETS["generic"], attempts=_ATTEMPTS)
    try:
        return _Prober(endpoint, connection, preset, table).run(model)
    finally:
        connection.close()


class _Prober:
    """One probe under way."""

    def __init__(
        self,
        endpoint: Endpoint,
        connection: Connection,
        preset: Preset | None,
        table: TableFile | None,
    ) -> None:
        self._named = preset is not None
        self._inquiry = Inquiry(endpoint, connection, preset or PRESETS["generic"], table)
        self._max_length: int | None = None
        #: What to add where a model that the server does not list gives no answer.
        self._unlisted = ""

    def run(self, model: str | None) -> Probe:
        """All steps, from what a server must have to what would be nice."""
        inquiry = self._inquiry
        inquiry.model = self._find_model(model)
        offer = self._find_offer()
        top_k = soundings.find_top_k(inquiry, offer)
        offer = replace(offer, max_top_k=top_k)
        tokenizes = soundings.find_tokenizer(inquiry, offer)
        named = tokenizes or inquiry.table is not None
        label_ids = named and soundings.find_label_ids(inquiry, offer)
        embeds = soundings.find_embeds(inquiry, offer, top_k)
        bias = soundings.find_bias(inquiry, offer) if named and not label_ids else 0.0
        access = Access(
            preset=inquiry.preset.name,
            api=offer.wire,
            tier="text",
            max_top_k=top_k,
            label_ids=label_ids,
            tokenizes=tokenizes,
            bias=bias,
            batch=min(offer.batch, BATCH),
            max_length=self._max_length,
            temperature=offer.temperature,
            **soundings.find_token_counts(inquiry, offer),
        )
        tier = self._choose_tier(embeds, label_ids or bias > 0, top_k)
        if tier == "text":
            soundings.check_writes(inquiry, offer)
        measure(inquiry, offer)
        return Probe(
            inquiry.endpoint,
            inquiry.model,
            tuple(inquiry.findings),
            access.model_copy(update={"tier": tier}),
            inquiry.questions.queries,
        )

    # ------------------------------------------------------------------ server and model

    def _find_model(self, wanted: str | None) -> str:
        listed = self._list_models()
        if listed is None:
            if wanted is None:
                raise ConfigError(
                    f"{self._inquiry.connection.base_url} does not list its models: check the base "
                    "URL, which ends in /v1 on most servers, or name one with --model"
                )
            return wanted
        if not self._named and listed:
            owner = str(listed[0].get("owned_by"))
            self._inquiry.preset = preset_of_owner(owner) or self._inquiry.preset
        self._inquiry.say("kind of server", self._inquiry.preset.name)
        names = [str(entry.get("id")) for entry in listed]
        self._inquiry.say("models", _short_list(names), good=bool(names))
        if wanted is None:
            if len(names) != 1:
                raise ConfigError(
                    f"the server has {len(names)} models; name one with --model: "
                    f"{_short_list(names)}"
                )
            [wanted] = names
        entry = next((one for one in listed if one.get("id") == wanted), None)
        if entry is None and (self._inquiry.preset.hosts or not self._inquiry.preset.owned_by):
            # Deployments, prefixes, tags, and gateways that pass on what they do not know: these
            # servers take other names than they list.
            self._inquiry.say("model", f"{wanted} is not listed", good=False)
            self._unlisted = f"; {wanted!r} is not among its models: {_short_list(names)}"
            return wanted
        if entry is None:
            raise RemoteError(
                f"{self._inquiry.connection.base_url} does not serve {wanted!r}; it serves "
                f"{_short_list(names)}"
            )
        length = entry.get("max_model_len")
        self._max_length = length if isinstance(length, int) and length > 0 else None
        return wanted

    def _list_models(self) -> list[dict[str, Any]] | None:
        """The server's models; ``None`` where it does not tell."""
        if self._inquiry.preset.models_path is None:
            return None
        try:
            reply = self._inquiry.connection.get(self._inquiry.preset.models_path)
        except RejectedError:
            self._inquiry.say("models", "the server does not list them")
            return None
        self._inquiry.say("reachable, authorised", self._inquiry.connection.base_url, good=True)
        data = reply.get("data") if isinstance(reply, dict) else None
        listed = data if isinstance(data, list) else ()
        # A name that cannot be shown as it is (it holds the key, say) is not used either.
        tidy = self._inquiry.connection.tidy
        return [
            entry
            for entry in listed
            if isinstance(entry, dict) and (name := str(entry.get("id"))) == tidy(name)
        ] or None

    def _find_offer(self) -> Offer:
        """The first of the preset's APIs that answers."""
        refusals = []
        for offer in self._inquiry.endpoint.offers(self._inquiry.preset):
            try:
                offer, outcome = soundings.find_temperature(self._inquiry, offer)
            except FailedError as error:
                # Some break down over a model that they do not have.
                raise RemoteError(f"{error}{self._unlisted}") from None
            if isinstance(outcome, WireReply):
                self._inquiry.say("API", offer.wire, good=True)
                return offer
            refusals.append(f"{offer.wire}: {outcome}")
        story = "no API of the server answers. " + "; ".join(refusals)
        raise RemoteError(story + self._unlisted)

    def _choose_tier(self, embeds: bool, labels: bool, top_k: int) -> Tier:
        offered: dict[Tier, bool] = {
            "embeddings": embeds,
            "label-logprobs": labels,
            "top-tokens": top_k > 0,
            "text": True,
        }
        wanted = self._inquiry.endpoint.tier
        if wanted is None:
            return next(tier for tier in TIERS if offered[tier])
        if not offered[wanted]:
            known = ", ".join(tier for tier in TIERS if offered[tier])
            seen = "; ".join(f"{one.what}: {one.found}" for one in self._inquiry.findings)
            url = self._inquiry.connection.base_url
            raise UnsupportedError(
                f"{url} does not offer the tier '{wanted}'; it offers {known} ({seen})"
            )
        return wanted


def _short_list(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"
