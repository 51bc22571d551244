"""From z to θ: random subspaces, dense ones and ones whose memory does not grow with d·D."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces.base import MAX_DIMENSION, MOST_DENSE, Subspace
from blackbox_delta.subspaces.blocks import BlockSubspace
from blackbox_delta.subspaces.dense import DenseSubspace
from blackbox_delta.subspaces.fastfood import FastfoodSubspace
from blackbox_delta.subspaces.learned import LearnedSubspace
from blackbox_delta.subspaces.low_rank import LowRankSubspace
from blackbox_delta.subspaces.sparse import SparseSubspace

__all__ = [
    "MAX_DIMENSION",
    "MOST_DENSE",
    "SUBSPACES",
    "BlockSubspace",
    "DenseSubspace",
    "FastfoodSubspace",
    "LearnedSubspace",
    "LowRankSubspace",
    "SparseSubspace",
    "Subspace",
    "make_subspace",
    "subspace_from_config",
]

_UNSTRUCTURED: dict[str, Callable[[int, int, int, float], Subspace]] = {
    "gaussian": DenseSubspace,
    "uniform": partial(DenseSubspace, distribution="uniform"),
    FastfoodSubspace.kind: FastfoodSubspace,
    SparseSubspace.kind: SparseSubspace,
}

SUBSPACES = (*_UNSTRUCTURED, BlockSubspace.kind, LowRankSubspace.kind)
"""The names that :func:`make_subspace` knows."""

_BY_KIND: dict[str, type[Subspace]] = {
    each.kind: each
    for each in (
        DenseSubspace,
        FastfoodSubspace,
        SparseSubspace,
        BlockSubspace,
        LowRankSubspace,
        LearnedSubspace,
    )
}


def make_subspace(
    name: str | None,
    dimension: int,
    size: int,
    seed: int,
    scale: float,
    groups: Sequence[int] = (),
    shapes: Sequence[tuple[int, ...]] = (),
) -> Subspace:
    """A subspace by name.

    Args:
        name: One of :data:`SUBSPACES`; ``None`` for a dense Gaussian one, or a sparse one where
            that would take more than 256 MB.
        dimension: d.
        size: D.
        seed: Determines the map.
        scale: Standard deviation of an entry of θ − p0 when z ~ N(0, I).
        groups: Lengths of the consecutive groups of θ, which add up to D; for ``"blocks"``.
        shapes: Of the tensors that θ holds one after the other; for ``"low-rank"``.

    Raises:
        ConfigError: A setting makes no sense.
    """
    if name == BlockSubspace.kind:
        # Small matrices are kept as float64, so that half as many fill the same memory.
        most = MOST_DENSE // 2
        return BlockSubspace.divided(dimension, tuple(groups) or (size,), seed, scale, most)
    if name == LowRankSubspace.kind:
        return LowRankSubspace(dimension, size, seed, scale, tuple(shapes) or ((size,),))
    chosen = name or ("gaussian" if dimension * size <= MOST_DENSE else SparseSubspace.kind)
    if chosen not in _UNSTRUCTURED:
        raise ConfigError(f"there is no subspace '{chosen}'; choose one of {', '.join(SUBSPACES)}")
    return _UNSTRUCTURED[chosen](dimension, size, seed, scale)


def subspace_from_config(
    config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
) -> Subspace:
    """The subspace whose ``config()`` and ``arrays()`` these are.

    Raises:
        ConfigError: The kind is unknown, or the settings are not those of such a subspace.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{config!r} is not what a subspace says of itself")
    values = dict(config)
    kind = str(values.pop("kind", None))
    if kind not in _BY_KIND:
        raise ConfigError(
            f"there is no subspace of kind '{kind}' in this version; known are "
            f"{', '.join(_BY_KIND)}"
        )
    try:
        return _BY_KIND[kind].from_config(values, arrays or {})
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The settings of the subspace are incomplete or of another version: {error}."
        ) from error
