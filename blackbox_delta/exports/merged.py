"""Whole models with what was tuned in their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackbox_delta.errors import ExportError
from blackbox_delta.exports.tuned_delta import open_model, tuned_delta
from blackbox_delta.tuned_model import TunedModel


def export_merged(tuned: TunedModel, folder: str | Path) -> Path:
    """Writes the whole model with the tuned delta in its weights, as transformers loads it.

    Weights are safetensors in the precision in which the model is open, which stays as it is. The
    tokenizer goes with them; template, label words and the head stay in the run.

    Args:
        tuned: A tuned local model whose delta, or each of several, changes weights alone: LoRA,
            tiny LoRA, IA3, matrices of chosen modules or of the last layer, sparse entries, offsets
            where there are some.
        folder: Where; it is made if it is not there, and must be empty.

    Raises:
        ExportError: The delta cannot be merged, or the folder is not empty or cannot be written.
    """
    found, into = tuned_delta(tuned), Path(folder)
    model = open_model(tuned.backend, "weights")
    with _new_folder(into):
        model.save_merged(found.batch, into)
    return into


@contextmanager
def _new_folder(into: Path) -> Iterator[None]:
    """An empty folder to be filled; what fails leaves neither half a model nor a new folder."""
    new = not into.exists()
    try:
        into.mkdir(parents=True, exist_ok=True)
        # Else the folder of another model, or of this one, would be overwritten in part.
        occupied = any(into.iterdir())
    except OSError as error:
        raise ExportError(f"no model can be written into {into}: {error.strerror}") from error
    if occupied:
        raise ExportError(f"the folder {into} is not empty; name a new one for the merged model")
    try:
        yield
    except BaseException:
        for path in into.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            into.rmdir()
        raise
