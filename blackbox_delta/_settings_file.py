"""Settings in a TOML file, named as the library names them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from blackbox_delta.errors import ConfigError
from blackbox_delta.settings import Settings
from blackbox_delta.types import Json


def read_settings(path: Path) -> Json:
    """What the file says, checked by itself.

    Raises:
        ConfigError: It cannot be read, is no TOML, or says what makes no sense.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the settings {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings {path} are no TOML: {error}") from error
    if isinstance(values.get("delta"), list):
        values["delta"] = ",".join(map(str, values["delta"]))
    try:
        Settings.of(values)
    except ConfigError as error:
        raise ConfigError(f"in {path}: {error}") from None
    return values
