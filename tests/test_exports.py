"""Exports of models that are not open here; those of open ones are tested beside the backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept import kept
from safetensors.numpy import load_file

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import ExportError
from blackbox_delta.exports import export_merged, export_peft

FRONT, WORDS = "{soft:3} {text}. It was {label}", {"bad": "dull", "good": "great"}


def test_a_soft_prompt_found_anywhere_is_exported(tmp_path: Path) -> None:
    """A server's embedding table is enough for it."""
    tuned = kept(FakeBackend(), "soft-prompt", FRONT, words=WORDS)

    assert export_peft(tuned, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"

    config = json.loads((tmp_path / "new" / "folder" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", 3)
    found = load_file(tmp_path / "new" / "folder" / "adapter_model.safetensors")
    [member] = tuned.members
    assert member.delta is not None
    np.testing.assert_array_equal(found["prompt_embeddings"], member.delta.tensors["soft.0"][0])


def test_weights_that_are_not_at_hand_are_not_merged(tmp_path: Path) -> None:
    tuned = kept(FakeBackend(), "soft-prompt", FRONT, words=WORDS)

    with pytest.raises(ExportError, match="weights of 'fake' are not at hand; load the run with"):
        export_merged(tuned, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("export", [export_peft, export_merged])
def test_without_a_delta_there_is_nothing_to_export(export: Any, tmp_path: Path) -> None:
    tuned = kept(FakeBackend(), None, "{text}. It was {label}", words=WORDS)

    with pytest.raises(ExportError, match="no delta was kept in this run"):
        export(tuned, tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tuned = kept(FakeBackend(), "soft-prompt", FRONT, words=WORDS)

    with pytest.raises(ExportError, match="no adapter can be written into .*file"):
        export_peft(tuned, tmp_path / "file" / "below")
