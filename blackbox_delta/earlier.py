"""Reads what earlier runs tuned, for a search in its span."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blackbox_delta.artifact import ONE_IN_FP16
from blackbox_delta.errors import ArtifactError, ConfigError, FingerprintError
from blackbox_delta.problem import EarlierDelta
from blackbox_delta.types import Backend


def read_earlier(backend: Backend, folders: Sequence[str | Path]) -> tuple[EarlierDelta, ...]:
    """The weightiest delta of each run that its search moved; asks nothing of the model.

    Args:
        backend: The model that all of them were tuned on.
        folders: Run folders.

    Raises:
        ArtifactError: A folder holds no finished run, or a damaged one.
        ConfigError: A run kept no delta.
        FingerprintError: A run tuned another model.
    """
    return tuple(_read(backend, Path(folder)) for folder in folders)


def _read(backend: Backend, folder: Path) -> EarlierDelta:
    from blackbox_delta.runs import artifact_of_one

    artifact = artifact_of_one(folder)
    # Views of plain words have a delta, too, which stays where it begins.
    moved = (each for each in artifact.members if each.z is not None and each.z.any())
    saved = next(moved, None)
    if saved is None:
        raise ConfigError(
            f"the run in {folder} kept no delta, so it spans nothing; leave it out, or tune it "
            "with a larger budget"
        )
    if artifact.fingerprint != backend.fingerprint:
        raise FingerprintError(
            f"the run in {folder} tuned {artifact.model!r}, and {backend.name!r} has other "
            f"weights, another configuration or another tokenizer, {ONE_IN_FP16}; name runs of the "
            "same model"
        )
    try:
        member = saved.rebuild(backend)
    except ArtifactError as error:
        raise ArtifactError(f"the run in {folder} cannot be built upon: {error}") from error
    if member.frame is None or member.z is None:  # never for a saved delta
        raise ArtifactError(f"the run in {folder} lacks a part of its delta")
    delta, subspace = member.frame.delta, member.frame.subspace
    return EarlierDelta.of(str(folder), delta, subspace.project(member.z[None], delta.origin)[0])
