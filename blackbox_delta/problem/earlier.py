"""Deltas that were tuned before, as directions for a new search."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces.learned import orthonormal_basis
from blackbox_delta.types import IN_SLOTS, PREFIX, Delta, FloatArray, Vector

Structure: TypeAlias = tuple[tuple[str, str, tuple[int, ...], bytes], ...]
"""Of each tensor its kind, name, shape and a digest at θ = 0; before these, a prefix's words."""


@dataclass(frozen=True)
class EarlierDelta:
    """What an earlier run tuned.

    Attributes:
        name: The run's folder, as given.
        kind: The delta's.
        structure: What its numbers are.
        direction: (D,) θ − p0 in units of the delta's scale.
    """

    name: str
    kind: str
    structure: Structure
    direction: Vector

    @classmethod
    def of(cls, name: str, delta: Delta, theta: FloatArray) -> Self:
        """A delta that stands at θ of shape (D,)."""
        moved = theta.astype(np.float64) - delta.origin.astype(np.float64)
        return cls(name, delta.kind, structure_of(delta), moved / delta.scale)

    @property
    def digest(self) -> str:
        """SHA-256 of what it is and where it leads."""
        state = hashlib.sha256(repr(self.structure).encode())
        state.update(self.direction.astype("<f8").tobytes())
        return state.hexdigest()

    def check(self, delta: Delta, structure: Structure) -> None:
        """Checks that its numbers mean the same in another delta, of a known structure.

        Raises:
            ConfigError: They do not.
        """
        if (self.kind, len(self.direction)) != (delta.kind, delta.size):
            raise ConfigError(
                f"{self.name} tuned a {self.kind} of {len(self.direction)} numbers, and here a "
                f"{delta.kind} of {delta.size} is tuned, which its directions do not fit; give "
                "both the same delta and settings (for soft prompts, soft_tokens)"
            )
        if self.structure != structure:
            raise ConfigError(
                f"{self.name} tuned a {self.kind} of the same size, but of other tensors or from "
                "another start, so its directions mean something else here; give both the same "
                "settings of the delta, the same seed and, for prefixes, the same words (soft_init)"
            )


def structure_of(delta: Delta) -> Structure:
    """What a delta's numbers are.

    The embeddings that soft tokens start from are no part of it: a direction among embeddings
    means the same from everywhere. The random start of a LoRA is, for its other half acts on that,
    and so are the words of a prefix, whose keys and values it is added to.
    """
    batch = delta.unpack(np.zeros((1, delta.size), np.float32))
    words = [(p.kind, "words", tuple(p.token_ids), b"") for p in batch.parts if p.kind == PREFIX]
    return *words, *(
        (part.kind, name, value.shape[1:], b"" if part.kind in IN_SLOTS else _digest(value))
        for part in batch.parts
        for name, value in part.tensors.items()
    )


def basis_of(earlier: Sequence[EarlierDelta], deltas: Sequence[Delta]) -> FloatArray:
    """What earlier deltas span, (r, D), for deltas that it must fit.

    Raises:
        ConfigError: It does not fit one of them, or an earlier delta adds nothing.
    """
    for delta in deltas:
        structure = structure_of(delta)
        for each in earlier:
            each.check(delta, structure)
    return orthonormal_basis([(each.name, each.direction) for each in earlier])


def _digest(values: FloatArray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).digest()
