"""Where the model of a saved run is, and in which precision it is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blackbox_delta.artifact import Artifact
from blackbox_delta.cli.groups import Place
from blackbox_delta.cli.models import Source
from blackbox_delta.cli.server import Key


@pytest.mark.parametrize(
    ("tuned", "asked", "opened"),
    [("bf16", None, "bf16"), ("bf16", "fp32", "fp32"), (None, None, None), (None, "fp16", "fp16")],
)
def test_a_saved_run_is_opened_in_its_own_precision_unless_another_is_asked_for(
    tuned: str | None, asked: str | None, opened: str | None, finished: Path
) -> None:
    artifact = replace(Artifact.load(finished), dtype=tuned)
    source = Source.saved(artifact, None, Place(dtype=asked), None, Key())
    assert source.place.dtype == opened
    assert source.model == artifact.model
