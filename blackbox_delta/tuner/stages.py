"""Stages of a search: some numbers of z are searched while the others stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blackbox_delta.problem import Frame
from blackbox_delta.types import Vector


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        frame: z of all stages to candidates.
        own: The numbers of z that this one moves.
        fixed: (d,) where the others stay.
    """

    frame: Frame
    own: slice
    fixed: Vector

    @property
    def length(self) -> int:
        """How many numbers it moves."""
        return len(self.fixed[self.own])

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of its numbers' consecutive parts that each move a part of θ alone."""
        alone = len(self.frame.parts) == 1
        return self.frame.subspace.parts if alone else (self.length,)

    def beginning_at(self, best: Vector | None) -> Stage:
        """The same from the best z (d,) so far; ``None`` for no delta. Its own part starts at 0."""
        return self if best is None else replace(self, fixed=best.copy())

    def whole(self, z: Vector) -> Vector:
        """Its numbers (…, own) among those of all stages (…, d)."""
        whole = np.broadcast_to(self.fixed, (*z.shape[:-1], len(self.fixed))).copy()
        whole[..., self.own] = z
        return whole


def stages_of(frame: Frame | None) -> list[Stage]:
    """The stages of a search in a frame, from zeros; none where nothing is searched."""
    if frame is None:
        return []
    nothing = np.zeros(frame.subspace.dimension)
    return [Stage(frame, part, nothing) for part in frame.parts]
