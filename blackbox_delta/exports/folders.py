"""Folders that exports are written into."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackbox_delta.errors import ExportError


@contextmanager
def new_folder(into: Path, what: str) -> Iterator[None]:
    """An empty folder to be filled; what fails leaves neither half of it nor a new folder.

    Args:
        into: Where; it is made if it is not there.
        what: What is to be written, in a message.

    Raises:
        ExportError: It is not empty or cannot be made.
    """
    new = not into.exists()
    try:
        into.mkdir(parents=True, exist_ok=True)
        # Else another model or adapter, or the tuned model itself, would be overwritten in part.
        occupied = any(into.iterdir())
    except OSError as error:
        raise ExportError(f"no {what} can be written into {into}: {error.strerror}") from error
    if occupied:
        raise ExportError(f"the folder {into} is not empty; name a new one for the {what}")
    try:
        yield
    except BaseException:
        for path in into.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            into.rmdir()
        raise
