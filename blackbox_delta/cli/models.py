"""How a command reaches its model: loaded here, or called on a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from blackbox_delta.backends.remote.endpoint import Access, Endpoint, plain
from blackbox_delta.backends.remote.keys import key_options, with_key_source
from blackbox_delta.cli.groups import Place
from blackbox_delta.cli.server import Key
from blackbox_delta.errors import ConfigError, RemoteError, RunError, UnsupportedError
from blackbox_delta.prices import Prices
from blackbox_delta.settings import Settings
from blackbox_delta.types import SOFT_PROMPT

if TYPE_CHECKING:
    from blackbox_delta.artifact import Artifact
    from blackbox_delta.tuned_model import TunedModel
    from blackbox_delta.types import Backend, Json

#: What it costs to find out what a server offers, which is in no run's account.
PROBING = "with some 20 queries"


@dataclass(frozen=True)
class Source:
    """Where the model of a command comes from.

    Attributes:
        model: Its name; may be left out on a server that has only one.
        place: Where and how precisely a local model runs.
        endpoint: The server; ``None`` for a local model.
        access: How the server is used, if that is known already; else it is asked.
    """

    model: str | None
    place: Place
    endpoint: Endpoint | None = None
    access: Json | None = None

    def resuming(self, run: Path) -> Source:
        """The same, but a server is used as it was when the run was started.

        Raises:
            RunError: It was to be used otherwise then, or the run's description is damaged.
        """
        from blackbox_delta.runs import read_description

        description = read_description(run)
        if self.endpoint is None or description is None:
            return self
        access = description.get("access") or {}
        for name in ("preset", "api", "tier"):
            wanted, then = getattr(self.endpoint, name), access.get(name)
            if access and wanted not in (None, then):
                raise RunError(
                    f"the run in {run} was started with --{name} {then}, not {wanted}; resume it "
                    "so, or choose another folder"
                )
        known = replace(self, model=self.model or description.get("model"))
        return known._used(access) if access else known

    def check_kinds(self, kinds: Sequence[str]) -> None:
        """Checks that deltas can act there, as far as that is known before it is opened.

        Raises:
            UnsupportedError: They act inside a model, and it is a server's.
        """
        inside = [kind for kind in kinds if kind != SOFT_PROMPT]
        if inside and self.endpoint is not None:
            raise UnsupportedError(
                f"a server takes no {inside[0]}, soft prompts at most; what acts inside a model "
                "needs a local one: --model without --base-url"
            )

    def assumed(self) -> Source:
        """The same, but a server is taken at its documentation's word and asked nothing.

        Raises:
            ConfigError: The model has no name.
        """
        from blackbox_delta.backends.remote.opening import assumed_access

        if self.endpoint is None or self.access is not None:
            return self
        if self.model is None:
            raise ConfigError("a dry run asks the server nothing: name the model with --model")
        return self._used(plain(assumed_access(self.endpoint)))

    def _used(self, access: Json) -> Source:
        """The same on a server that the user named and of which it is known how it is used.

        Raises:
            ConfigError: What is known of it makes no sense.
        """
        if self.endpoint is None:
            return self
        endpoint = with_key_source(self.endpoint, Access.of(access).preset)
        return replace(self, endpoint=endpoint, access=access)

    @classmethod
    def saved(
        cls, artifact: Artifact, model: str | None, place: Place, url: str | None, key: Key
    ) -> Source:
        """Where a saved run's model is, or where it has moved.

        Raises:
            ConfigError: A URL or a key is given for a local model, or the saved address is damaged.
        """
        address = artifact.address_with(key.env, key.file)
        if not address:
            if url is not None:
                raise ConfigError("this run was tuned on a local model; leave --base-url out")
            return cls(model or artifact.model, replace(place, dtype=place.dtype or artifact.dtype))
        endpoint, access = address.get("endpoint"), address.get("access")
        if not isinstance(endpoint, dict) or not isinstance(access, dict):
            raise ConfigError("the saved address of the model is damaged; tune it again")
        there = cls(model or artifact.model, place, Endpoint.of(endpoint), access)
        if url is None:
            return there
        moved = replace(there, endpoint=Endpoint.of(endpoint | {"base_url": url}))
        return moved._used(access)

    @property
    def key_options(self) -> list[str]:
        """What a command needs to send a run on it, once that is saved, the same key."""
        return [] if self.endpoint is None else key_options(self.endpoint)

    @contextmanager
    def opened(self, console: Console) -> Iterator[Backend]:
        """The model, until it is no longer needed."""
        from blackbox_delta.backends import open_backend

        known = self.endpoint is None or self.access is not None
        doing = "loading the model" if known else f"asking the server what it offers, {PROBING}"
        with console.status(doing, refresh_per_second=2):
            backend = open_backend(
                self.model,
                device=self.place.device,
                dtype=self.place.dtype,
                **self._server(),
            )
        try:
            yield backend
        finally:
            backend.close()

    def _server(self) -> Json:
        if self.endpoint is None or self.access is None:
            return {"endpoint": self.endpoint}
        return {"address": {"endpoint": plain(self.endpoint), "access": self.access}}


@contextmanager
def loaded(
    saved: tuple[Artifact, Json | None],
    place: Place,
    model: str | None,
    url: str | None,
    key: Key,
    cache: Path | None,
    console: Console,
) -> Iterator[TunedModel]:
    """A saved run, its artifact and what it reported, on its model.

    With a cache every reply is in it before it is used. Otherwise an error of a server's tells of
    the option, for what was paid is gone. What a server was sent is said in the end, however it
    comes.
    """
    from blackbox_delta.journal import Journal, JournaledBackend
    from blackbox_delta.runs import is_run_journal
    from blackbox_delta.tuned_model import TunedModel

    artifact, result = saved
    source = Source.saved(artifact, model, place, url, key)
    with ExitStack() as stack:
        # First, so that a file that is no cache is found before the model is loaded.
        replies = None
        if cache is not None:
            if is_run_journal(cache):
                raise ConfigError(
                    f"{cache} is the journal of a run, and what is asked now would be among what "
                    "that run cost; name another file for the cache"
                )
            replies = stack.enter_context(Journal.open(cache, create=True, shared=True))
        backend = stack.enter_context(source.opened(console))
        # A local model stays itself: what is exported is read off it, and its queries cost nothing.
        if source.endpoint is not None:
            backend = stack.enter_context(_metered(backend, console))
        asked = backend if replies is None else JournaledBackend(backend, replies)
        with _advised(cache):
            yield TunedModel(artifact, asked, result)


def say_ahead(tuned: TunedModel, texts: int, console: Console) -> None:
    """Says what answering so many texts will take of a server."""
    from blackbox_delta.display import asking_line, say

    if tuned.backend.address:
        say(console, asking_line(tuned.backend.name, texts, len(tuned.panel.ways)))


@contextmanager
def _metered(backend: Backend, console: Console) -> Iterator[Backend]:
    """The same backend; says in the end what it was sent."""
    from blackbox_delta.display import say, spent_line
    from blackbox_delta.metered import Metered

    meter = Metered(backend)
    try:
        yield meter
    finally:
        if meter.usage.queries or meter.usage.lost:
            say(console, spent_line(meter.usage))


@contextmanager
def _advised(cache: Path | None) -> Iterator[None]:
    """Adds to an error of a server's how nothing is paid twice."""
    try:
        yield
    except RemoteError as error:
        if cache is None:
            advice = "With --cache FILE, what is answered is paid once however often you try"
        else:
            advice = f"What was answered is in {cache}: the same command goes on from there"
        raise RemoteError(f"{error}. {advice}") from error


def priced(settings: Settings, table: Path, model: str | None) -> Settings:
    """The settings with the prices that a table gives for the model.

    Raises:
        ConfigError: The table cannot be read or lacks the model, or prices are given twice.
    """
    if settings.price_in is not None or settings.price_out is not None:
        raise ConfigError("give --prices or --price-in and --price-out, not both")
    if model is None:
        raise ConfigError("--prices looks the model up by its name: add --model")
    prices = Prices.from_file(table, model)
    return settings.model_copy(update={"price_in": prices.input, "price_out": prices.output})
