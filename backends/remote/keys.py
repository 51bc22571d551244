"""Where the key for a server comes from: whoever names the server decides what it may be sent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blackbox_delta.backends.remote.endpoint import Endpoint
from blackbox_delta.backends.remote.http.address import is_loopback, parse_base_url
from blackbox_delta.backends.remote.wires.offers import Preset
from blackbox_delta.backends.remote.wires.presets import PRESETS, preset_for


@dataclass(frozen=True)
class KeySource:
    """Where a key is read from, and why there may be none.

    Attributes:
        env: The environment variable; ``None`` for none.
        file: The file; ``None`` for none.
        kept_back: What to tell a user whom a saved run's server turns away because it was sent no
            key; empty where it was, or where the user named the server.
    """

    env: str | None = None
    file: Path | None = None
    kept_back: str = ""

    @classmethod
    def of(cls, endpoint: Endpoint, preset: Preset) -> KeySource:
        """For a server that the user names: what the endpoint says, or the preset's variable.

        The preset's is taken where it is set; a server without a key is common.
        """
        if endpoint.key_env is not None or endpoint.key_file is not None:
            return cls(endpoint.key_env, endpoint.key_file)
        return cls(preset.key_env if os.environ.get(preset.key_env) else None)

    @classmethod
    def of_saved(cls, endpoint: Endpoint, preset: Preset) -> KeySource:
        """For a server that a file names, which may be somebody else's.

        What the endpoint says of a key is the user's own word, for no file keeps that. The
        preset's variable is read for the hosts that the preset knows, and for this machine.

        Raises:
            ConfigError: The base URL makes no sense.
        """
        source = cls.of(endpoint, preset)
        said = endpoint.key_env is not None or endpoint.key_file is not None
        at_home = _is_at_home(endpoint.base_url, preset)
        if said or (at_home and source.env is not None):
            return source
        if source.env is None:
            why = "no key was sent, for a saved run does not say which one; add"
        else:
            why = (
                f"{source.env} is set, but no key was sent, for the run's folder and not you names "
                "this server; if you trust it, add"
            )
        variable = source.env or "VARIABLE"
        return cls(kept_back=f"{why} --key-env {variable} (in Python key_env='{variable}')")


def with_key_source(endpoint: Endpoint, preset: str) -> Endpoint:
    """The endpoint of a server that the user names, its key's source written out.

    So it stays the user's word wherever the endpoint goes.

    Args:
        endpoint: What the user said.
        preset: The kind of server that it was found to be.
    """
    if preset not in PRESETS:
        return endpoint  # whoever opens it says so
    source = KeySource.of(endpoint, PRESETS[preset])
    return endpoint.model_copy(update={"key_env": source.env})


def key_options(endpoint: Endpoint) -> list[str]:
    """The options by which a user sends a saved run's server the key that it is sent now."""
    preset = endpoint.known_preset or PRESETS["generic"]
    source = KeySource.of(endpoint, preset)
    if source.file is not None:
        return ["--key-file", str(source.file)]
    said = endpoint.key_env is not None
    if source.env is None or (not said and _is_at_home(endpoint.base_url, preset)):
        return []
    return ["--key-env", source.env]


def _is_at_home(base_url: str, preset: Preset) -> bool:
    """Whether a server is one of its preset's own, or on this machine."""
    # As it will be called: what reads the host otherwise could be led astray.
    url = parse_base_url(base_url)
    known = preset_for(str(url))
    return is_loopback(url.host) or (known is not None and known.key_env == preset.key_env)
