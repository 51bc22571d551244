"""Whole models with what was tuned in their weights."""

from __future__ import annotations

from pathlib import Path

from blackbox_delta.exports.folders import new_folder
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
    with new_folder(into, "merged model"):
        model.save_merged(found.batch, into)
    return into
