"""The options that say where a server is and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackbox_delta.backends.remote.endpoint import TIERS, Endpoint
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.cli.group import Group, make_option
from blackbox_delta.errors import ConfigError

_SERVER = "The server"
_ENDPOINT = {
    "base_url": "Where the model is served, such as https://api.openai.com/v1.",
    "preset": f"Kind of server: {', '.join(PRESETS)}; found out where it is left out.",
    "api": "Form of the requests: completions, chat, sglang or llama.cpp.",
    "tier": f"What goes in and comes out: {', '.join(TIERS)}; the best one that is offered.",
    "embeddings": "The model's embedding table and tokenizer: a folder, a .gguf file or pkg:NAME.",
    "key_env": "The environment variable that holds the API key.",
    "key_file": "A file that holds the API key and that you alone can read.",
    "concurrency": "The most requests in flight.",
    "requests_per_minute": "The most requests in a minute.",
    "tokens_per_minute": "The most prompt tokens in a minute.",
    "timeout": "Seconds for one request.",
}


@dataclass(frozen=True)
class Server:
    """Where the model is called; ``endpoint`` is ``None`` for a local model."""

    endpoint: Endpoint | None


@dataclass(frozen=True)
class Caller:
    """How a server whose URL is an argument is called: an endpoint's fields but for the URL."""

    fields: Mapping[str, Any]

    def endpoint(self, base_url: str) -> Endpoint:
        """The endpoint at a URL."""
        return Endpoint.of({**self.fields, "base_url": base_url})


@dataclass(frozen=True)
class Key:
    """Which key a saved run's server is sent; the run itself never says."""

    env: str | None = None
    file: Path | None = None


def _endpoint_option(name: str) -> inspect.Parameter:
    field = Endpoint.model_fields[name]
    kind: Any = str | None if name in ("base_url", "api", "tier") else field.annotation
    default = None if name == "base_url" else field.default
    return make_option(name, default, kind, _SERVER, _ENDPOINT[name])


def _server(given: Mapping[str, Any], _written: frozenset[str]) -> Server:
    if given["base_url"] is not None:
        return Server(Endpoint.of(given))
    set_ones = [
        name
        for name, value in given.items()
        if value is not None and value != Endpoint.model_fields[name].default
    ]
    if set_ones:
        option = "--" + set_ones[0].replace("_", "-")
        raise ConfigError(f"{option} is about a server; say which one with --base-url")
    return Server(None)


#: What fills Server.
SERVER = Group([_endpoint_option(name) for name in _ENDPOINT], _server)
#: What fills Key.
KEY = Group(
    [_endpoint_option(name) for name in ("key_env", "key_file")],
    lambda given, _written: Key(given["key_env"], given["key_file"]),
)
#: What fills Caller.
CALLER = Group(
    [_endpoint_option(name) for name in _ENDPOINT if name != "base_url"],
    lambda given, _written: Caller(given),
)
