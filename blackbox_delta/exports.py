"""What was tuned, for other packages: an adapter that PEFT, and servers that take PEFT's, load."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blackbox_delta.artifact import write_json, write_whole
from blackbox_delta.deltas import IA3, LoRA
from blackbox_delta.deltas.peft import PeftAdapter
from blackbox_delta.errors import ExportError
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Delta, DeltaBatch

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PEFT_TYPES = (LoRA, IA3)


def export_peft(tuned: TunedModel, folder: str | Path) -> Path:
    """Writes the tuned delta as a PEFT adapter: ``adapter_config.json`` and safetensors.

    Under it the model says what it says under the delta; template, label words and the head stay
    in the run.

    Args:
        tuned: A tuned model whose delta PEFT has a type for: LoRA or IA3.
        folder: Where; it is made if it is not there.

    Raises:
        ExportError: Nothing was tuned that PEFT has a type for, or the folder cannot be written.
    """
    delta, batch = _tuned_delta(tuned)
    if not isinstance(delta, PEFT_TYPES):
        raise ExportError(
            f"PEFT has no type for a {delta.kind} found in this way; it has for "
            f"{' and '.join(each.kind for each in PEFT_TYPES)}, each alone"
        )
    adapter = delta.peft({name: value[0] for name, value in batch.tensors.items()})
    into = Path(folder)
    write_adapter(adapter, tuned.backend.name, into)
    return into


def write_adapter(adapter: PeftAdapter, model: str, into: Path) -> None:
    """Writes an adapter's two files.

    Args:
        adapter: The adapter.
        model: The name of the model that it is for.
        into: The folder.

    Raises:
        ExportError: They cannot be written.
    """
    from safetensors.numpy import save

    config = {
        **adapter.config,
        "base_model_name_or_path": model,
        "inference_mode": True,
        "task_type": None,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in adapter.tensors.items()}
    try:
        into.mkdir(parents=True, exist_ok=True)
        write_whole(into / WEIGHTS_NAME, save(tensors, {"format": "pt"}))
        write_json(into / CONFIG_NAME, config)
    except OSError as error:
        raise ExportError(f"the adapter cannot be written into {into}: {error.strerror}") from error


def _tuned_delta(tuned: TunedModel) -> tuple[Delta, DeltaBatch]:
    """The one delta that was kept, and its one candidate."""
    found = [
        (member.frame.delta, batch)
        for member in tuned.members
        if member.frame is not None and (batch := member.delta) is not None
    ]
    if len(found) != 1:
        what = "no delta was kept" if not found else f"{len(found)} views have deltas of their own"
        raise ExportError(
            f"{what} in this run, and an adapter is one delta; tune with --recipe search --delta "
            "lora, and see that the delta was kept"
        )
    return found[0]
