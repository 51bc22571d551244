"""What is searched: a delta, and the subspace in which z moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blackbox_delta._problem_deltas import make_delta
from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import DivideAndConquer
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import BlockSubspace, Subspace, make_subspace
from blackbox_delta.tasks import Template
from blackbox_delta.types import Backend, Delta, DeltaBatch, Json, Vector

#: d unless something else is asked for, as in Black-Box Tuning; a smaller delta takes its own D.
DIMENSION = 500


@dataclass(frozen=True)
class Frame:
    """The delta and the subspace in which it is searched: z to candidates.

    Attributes:
        delta: What is tuned.
        subspace: Where it is searched.
    """

    delta: Delta
    subspace: Subspace

    def described(self) -> Json:
        """What reports say of it."""
        return {
            "kind": self.delta.kind,
            "size": self.delta.size,
            "dimension": self.subspace.dimension,
            "subspace": self.subspace.kind,
        }

    def candidates(self, z: Vector) -> DeltaBatch:
        """z (λ, d) to λ candidates, by way of θ (λ, D)."""
        return self.delta.unpack(self.subspace.project(z, self.delta.origin))


def build_frames(
    backend: Backend, starts: Sequence[tuple[Template, str | None]], settings: Settings
) -> list[Frame | None]:
    """One frame for each template and init, all of the same search dimension.

    ``None`` where only the output side is tuned.
    """
    deltas = [make_delta(backend, template, settings, init) for template, init in starts]
    if all(delta is None for delta in deltas):
        return [None for _ in starts]
    smallest = min(delta.size for delta in deltas if delta is not None)
    dimension = settings.dimension or min(DIMENSION, smallest)
    if dimension > smallest:
        raise ConfigError(
            f"dimension = {dimension} is more than the {smallest} numbers of the "
            f"{settings.delta}; give at most {smallest}"
        )
    subspace = settings.subspace
    if subspace is None and settings.optimizer == DivideAndConquer.name:
        subspace = BlockSubspace.kind
    return [
        None
        if delta is None
        else Frame(
            delta,
            make_subspace(
                subspace,
                dimension,
                delta.size,
                settings.seed,
                settings.scale * delta.scale,
                delta.groups,
            ),
        )
        for delta in deltas
    ]
