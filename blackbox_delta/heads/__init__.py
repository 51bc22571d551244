"""The output side: heads turn a model's evidence into class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from numpy.typing import NDArray

from blackbox_delta.errors import ArtifactError, ConfigError
from blackbox_delta.heads.calibrated import CalibratedHead, ContextualHead, FittedShift
from blackbox_delta.heads.discriminant import AnchoredHead, DiscriminantHead, FittedDiscriminant
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.linear import FittedLinear
from blackbox_delta.heads.logistic import LogisticHead
from blackbox_delta.heads.nearest import FittedNearest, NearestHead
from blackbox_delta.heads.plain import FittedPlain, PlainHead
from blackbox_delta.heads.prototypes import FittedPrototypes, PrototypesHead
from blackbox_delta.heads.ridge import RidgeHead
from blackbox_delta.types import FittedHead, Head

AnyHead: TypeAlias = PlainHead | CalibratedHead | ContextualHead | LearnedHead
State: TypeAlias = Mapping[str, NDArray[Any]]

HEADS: Mapping[str, Callable[[], AnyHead]] = MappingProxyType(
    {
        "plain": PlainHead,
        "calibrated": CalibratedHead,
        "contextual": ContextualHead,
        "logistic": LogisticHead,
        "ridge": RidgeHead,
        "discriminant": DiscriminantHead,
        "anchored": AnchoredHead,
        "prototypes": PrototypesHead,
        "nearest": NearestHead,
    }
)

_REBUILD: Mapping[str, Callable[[State], FittedHead]] = MappingProxyType(
    {
        "plain": lambda _: FittedPlain(),
        "calibrated": lambda state: FittedShift("calibrated", state["offset"]),
        "contextual": lambda state: FittedShift("contextual", state["offset"]),
        "logistic": partial(FittedLinear.from_state, "logistic"),
        "ridge": partial(FittedLinear.from_state, "ridge"),
        "discriminant": partial(FittedDiscriminant.from_state, "discriminant"),
        "anchored": partial(FittedDiscriminant.from_state, "anchored"),
        "prototypes": FittedPrototypes.from_state,
        "nearest": FittedNearest.from_state,
    }
)

__all__ = [
    "HEADS",
    "AnchoredHead",
    "CalibratedHead",
    "ContextualHead",
    "DiscriminantHead",
    "LogisticHead",
    "NearestHead",
    "PlainHead",
    "PrototypesHead",
    "RidgeHead",
    "head_from_state",
    "make_head",
]


def make_head(name: str, max_top_k: int | None = None) -> Head:
    """The head called ``name``; one that learns from top tokens asks for ``max_top_k`` at most.

    Raises:
        ConfigError: There is no such head.
    """
    if name not in HEADS:
        raise ConfigError(f"There is no head called {name!r}. Choose one of: {', '.join(HEADS)}.")
    head = HEADS[name]()
    if max_top_k is None or head.top_k <= max_top_k:
        return head
    return replace(head, top_k=max_top_k)


def head_from_state(kind: str, state: State) -> FittedHead:
    """Rebuilds a fitted head exactly from its kind and the arrays of its ``state()``.

    Raises:
        ArtifactError: There is no such head, or an array is missing.
    """
    if kind not in _REBUILD:
        raise ArtifactError(
            f"The saved head is of kind {kind!r}, which this version does not know. "
            "Load it with the version that wrote it."
        )
    try:
        return _REBUILD[kind](state)
    except KeyError as error:
        raise ArtifactError(f"The saved {kind!r} head is damaged: {error} is missing.") from error
