"""The one delta that a run has to hand on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from blackbox_delta.deltas import Composition
from blackbox_delta.errors import ExportError
from blackbox_delta.members import Member
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import MERGEABLE, Backend, Delta, DeltaBatch, FloatArray, OpenModel

Tensors: TypeAlias = Mapping[str, FloatArray]
"""One candidate's, without the leading λ."""


class TunedDelta(NamedTuple):
    """The one delta of a tuned model, and the only candidate of it that was kept."""

    member: Member
    delta: Delta
    batch: DeltaBatch

    @property
    def parts(self) -> tuple[tuple[Delta, Tensors], ...]:
        """Each of the kinds that were tuned at the same time, or one after the other."""
        deltas = self.delta.deltas if isinstance(self.delta, Composition) else (self.delta,)
        return tuple(zip(deltas, map(_only, self.batch.parts), strict=True))

    @property
    def tensors(self) -> Tensors:
        """Those of the first kind, which is often the only one."""
        return _only(self.batch)


def _only(batch: DeltaBatch) -> Tensors:
    return {name: value[0] for name, value in batch.tensors.items()}


def tuned_delta(tuned: TunedModel) -> TunedDelta:
    """The delta of a tuned model.

    Raises:
        ExportError: None was kept (one that stayed where it began, as words, is none), or several
            views have one of their own.
    """
    found = [
        TunedDelta(member, member.frame.delta, batch)
        for member in tuned.members
        if member.moved and member.frame is not None and (batch := member.delta) is not None
    ]
    if len(found) != 1:
        what = "no delta was kept" if not found else f"{len(found)} views have deltas of their own"
        raise ExportError(
            f"{what} in this run, and one is exported; tune with --recipe search --delta lora, and "
            "see that the delta was kept"
        )
    return found[0]


def merging_advice(kind: str) -> str:
    """What ends a sentence about a kind of delta that changes weights alone; else nothing."""
    if not MERGEABLE.issuperset(kind.split("+")):
        return ""
    return ". It may be merged into the model: --format merged"


def open_model(backend: Backend, what: str) -> OpenModel:
    """A backend whose model is at hand.

    Args:
        backend: The tuned model's.
        what: What of it is needed.

    Raises:
        ExportError: The model is somewhere else.
    """
    if not isinstance(backend, OpenModel):
        raise ExportError(
            f"the {what} of {backend.name!r} are not at hand; load the run with the model itself, "
            "on this machine"
        )
    return backend
