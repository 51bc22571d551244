"""Several kinds of delta in one search, as in unified frameworks (Mao et al., 2022, 2110.07577)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from blackbox_delta.deltas.shapes import check_theta, zeros
from blackbox_delta.errors import ConfigError
from blackbox_delta.slices import consecutive
from blackbox_delta.tensors import Theta
from blackbox_delta.types import Delta, DeltaBatch, FloatArray, Json, is_deferred


class Composition:
    """Deltas that act at the same time, in the order given where they meet at a module.

    θ holds them one after the other, each in units of its own scale.

    Args:
        deltas: At least two, of different kinds.

    Raises:
        ConfigError: There are fewer, or two of one kind.
    """

    scale = 1.0

    def __init__(self, deltas: Sequence[Delta]) -> None:
        kinds = [delta.kind for delta in deltas]
        if len(deltas) < 2 or len(set(kinds)) < len(kinds):
            raise ConfigError(
                f"a composition is of two or more different kinds of delta, not of "
                f"{'+'.join(kinds) or 'none'}"
            )
        self.deltas = tuple(deltas)
        self.kind = "+".join(kinds)
        self.origin = zeros(sum(delta.size for delta in deltas))

    @property
    def size(self) -> int:
        """D, of all of them."""
        return self.origin.size

    @property
    def groups(self) -> tuple[int, ...]:
        """Those of all of them, one after the other."""
        return tuple(length for delta in self.deltas for length in delta.groups)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of all of them, one after the other."""
        return tuple(shape for delta in self.deltas for shape in delta.shapes)

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to a batch with the others beside the first.

        Raises:
            ConfigError: θ has another shape.
        """
        check_theta(theta, self.size, self.kind)
        return self._together(
            delta.unpack(_own(delta, theta[:, rows])) for delta, rows in self._divided()
        )

    def deferred(self, theta: Theta) -> DeltaBatch:
        """What :meth:`unpack` makes of θ; the large ones of the deltas make theirs when asked."""
        return self._together(
            delta.deferred(theta.within(rows))
            if is_deferred(delta)
            else delta.unpack(_own(delta, theta.within(rows).made()))
            for delta, rows in self._divided()
        )

    def _divided(self) -> Iterator[tuple[Delta, slice]]:
        """Each delta with its part of θ."""
        parts = consecutive(delta.size for delta in self.deltas)
        return zip(self.deltas, parts, strict=True)

    @staticmethod
    def _together(batches: Iterable[DeltaBatch]) -> DeltaBatch:
        first, *others = batches
        return replace(first, beside=tuple(others))

    def config(self) -> Json:
        """What rebuilds it beside the model, ready for JSON."""
        return {"kind": self.kind, "deltas": [delta.config() for delta in self.deltas]}


def _own(delta: Delta, part: FloatArray) -> FloatArray:
    """A delta's own θ."""
    return part * np.float32(delta.scale) + delta.origin
