"""What is searched: a delta, and the subspace in which z moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.deltas import SoftPrompt
from blackbox_delta.errors import ConfigError, UnsupportedError
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import RandomSubspace
from blackbox_delta.tasks import Template
from blackbox_delta.types import Backend, Delta, DeltaBatch, EmbeddingTable, Vector

#: Length of soft slots for which nothing else says it.
SOFT_TOKENS = 10
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
    subspace: RandomSubspace

    def candidates(self, z: Vector) -> DeltaBatch:
        """z (λ, d) to λ candidates, by way of θ (λ, D)."""
        return self.delta.unpack(self.subspace.project(z, self.delta.origin))


def build_frames(
    backend: Backend, starts: Sequence[tuple[Template, str | None]], settings: Settings
) -> list[Frame | None]:
    """One frame for each template and init, all of the same search dimension.

    ``None`` for templates without a slot.
    """
    if not any(template.slots for template, _ in starts):
        return [None for _ in starts]
    table = _embedding_table(backend)
    deltas = [
        _delta(table, template, settings, init) if template.slots else None
        for template, init in starts
    ]
    smallest = min(delta.size for delta in deltas if delta is not None)
    dimension = settings.dimension or min(DIMENSION, smallest)
    if dimension > smallest:
        raise ConfigError(
            f"dimension = {dimension} is more than the {smallest} numbers of the soft prompt; give "
            f"at most {smallest}"
        )
    return [
        None
        if delta is None
        else Frame(
            delta,
            RandomSubspace(
                dimension,
                delta.size,
                settings.seed,
                settings.scale * delta.scale,
                settings.subspace,
            ),
        )
        for delta in deltas
    ]


def _delta(
    table: EmbeddingTable, template: Template, settings: Settings, init: str | None
) -> SoftPrompt:
    return SoftPrompt.build(
        {slot.name: slot.length or settings.soft_tokens for slot in template.slots},
        table,
        tokens=SOFT_TOKENS,
        init=init,
        rng=np.random.Generator(np.random.PCG64([settings.seed, 1])),
    )


def _embedding_table(backend: Backend) -> EmbeddingTable:
    table = backend.embedding_table
    if table is None or SoftPrompt.kind not in backend.capabilities.deltas:
        raise UnsupportedError(
            f"{backend.name} takes no soft prompts; use a template without {{soft}}, or none, so "
            "that only the output side is tuned"
        )
    return table
