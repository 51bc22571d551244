"""Each group of θ, such as a layer, moves with numbers of z of its own, by a map of its own.

As in BBTv2 (Sun et al., 2022, arXiv 2205.11200), where every layer has its own z and its own
random projection, whose deviation follows from what is there in the untuned model; our deltas
measure θ in such units already. That structure within θ is worth knowing to a search of
intrinsic dimension was found before (Aghajanyan et al., 2021, arXiv 2012.13255, structure-aware
intrinsic dimension), there with one scale a layer.

An unstructured subspace moves everything at once, whichever number of z is changed. Here a
number moves one group and leaves the others alone, so that an optimizer can go from group to group.

**Rebuilding θ is exact, bit for bit**: each block is rebuilt as its own map does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.slices import consecutive
from blackbox_delta.subspaces.base import MOST_DENSE, Subspace
from blackbox_delta.subspaces.dense import DenseSubspace
from blackbox_delta.subspaces.sparse import SparseSubspace
from blackbox_delta.types import FloatArray, Json, Vector

_WITHIN: Mapping[str, type[Subspace]] = {
    "gaussian": DenseSubspace,
    SparseSubspace.kind: SparseSubspace,
}


@dataclass(frozen=True)
class BlockSubspace(Subspace):
    """Blocks side by side, each a random subspace of its group.

    Draw order: block i is drawn from the i-th 64-bit number of ``PCG64([seed, 6])`` as its seed.

    Attributes:
        shares: Numbers of z for each block; they add up to d.
        groups: Lengths of the groups of θ; they add up to D.
        within: What the blocks are, ``"gaussian"`` (dense) or ``"sparse"``.
    """

    shares: tuple[int, ...]
    groups: tuple[int, ...]
    within: str

    kind: ClassVar[str] = "blocks"

    @classmethod
    def divided(
        cls, dimension: int, groups: Sequence[int], seed: int, scale: float, most_dense: int
    ) -> Self:
        """A subspace whose numbers are divided among the groups by their lengths.

        Args:
            dimension: d, at least one for each group.
            groups: Lengths of the groups of θ.
            seed: Determines the map.
            scale: Standard deviation of an entry of θ − p0 when z ~ N(0, I).
            most_dense: Entries of all dense matrices together beyond which sparse ones take
                their place.

        Raises:
            ConfigError: A setting makes no sense.
        """
        if not len(groups) <= dimension <= sum(groups):
            raise ConfigError(
                f"a search dimension of {dimension} cannot be divided among {len(groups)} groups "
                f"of {sum(groups)} numbers in all: each group takes at least one and at most as "
                f"many as it has. Give a dimension of at least {len(groups)}, or another subspace"
            )
        return cls.with_shares(divide(dimension, groups), groups, seed, scale, most_dense)

    @classmethod
    def with_shares(
        cls,
        shares: Sequence[int],
        groups: Sequence[int],
        seed: int,
        scale: float,
        most_dense: int = MOST_DENSE,
    ) -> Self:
        """The same with given shares of z, one for each group.

        Raises:
            ConfigError: A setting makes no sense.
        """
        entries = sum(map(int.__mul__, shares, groups))
        within = "gaussian" if entries <= most_dense else SparseSubspace.kind
        return cls(sum(shares), sum(groups), seed, scale, tuple(shares), tuple(groups), within)

    def _check(self) -> None:
        super()._check()
        if self.within not in _WITHIN:
            raise ConfigError(
                f"there are no blocks of kind '{self.within}'; they are {' or '.join(_WITHIN)}"
            )
        if len(self.shares) != len(self.groups) or (sum(self.shares), sum(self.groups)) != (
            self.dimension,
            self.size,
        ):
            raise ConfigError(
                f"The blocks do not add up: {len(self.shares)} of {sum(self.shares)} numbers for "
                f"{len(self.groups)} groups of {sum(self.groups)}, in a subspace of "
                f"{self.dimension} of {self.size} numbers."
            )
        _ = self._inner

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of z for each block."""
        return self.shares

    @cached_property
    def _inner(self) -> tuple[Subspace, ...]:
        made, seeds = _WITHIN[self.within], np.random.PCG64([self.seed, 6])
        drawn = seeds.random_raw(len(self.groups)).tolist()
        return tuple(
            made(share, group, seed, self.scale)
            for share, group, seed in zip(self.shares, self.groups, drawn, strict=True)
        )

    def forget(self) -> None:
        """Drops the blocks' matrices."""
        for inner in self._inner:
            inner.forget()

    def _projected(self, exact: Vector, origin: FloatArray, rows: slice) -> FloatArray:
        theta = np.empty((len(exact), rows.stop - rows.start), dtype=np.float32)
        places = zip(consecutive(self.shares), consecutive(self.groups), self._inner, strict=True)
        for part, group, inner in places:
            start, stop = max(group.start, rows.start), min(group.stop, rows.stop)
            if start < stop:
                own = slice(start - group.start, stop - group.start)
                moved = inner.project(exact[:, part], origin[group], own)
                theta[:, start - rows.start : stop - rows.start] = moved
        return theta

    def config(self) -> Json:
        """Everything needed to rebuild it, ready for JSON."""
        own = {"shares": list(self.shares), "groups": list(self.groups), "within": self.within}
        return {**super().config(), **own}

    @classmethod
    def from_config(cls, values: Mapping[str, Any], _arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The subspace whose :meth:`config` this is, but for the kind."""
        lists = {name: tuple(map(int, values[name])) for name in ("shares", "groups")}
        return cls(**{**values, **lists})


def divide(dimension: int, groups: Sequence[int]) -> tuple[int, ...]:
    """Shares of d for the groups by their lengths: largest remainders, at least one for each.

    Args:
        dimension: d, from the number of groups to the sum of their lengths.
        groups: Lengths of the groups, each at least 1.

    Returns:
        One share for each group, none larger than it.
    """
    # One for each, and of what is left by what is left; so a share never exceeds its group.
    left, total = dimension - len(groups), sum(groups) - len(groups)
    shares = [1 + left * (group - 1) // max(total, 1) for group in groups]
    remainders = [left * (group - 1) % max(total, 1) for group in groups]
    largest = sorted(range(len(groups)), key=lambda place: -remainders[place])
    for place in largest[: dimension - sum(shares)]:
        shares[place] += 1
    return tuple(shares)
