"""The output side: heads turn a model's evidence into class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from numpy.typing import NDArray

from blackbox_delta.errors import ArtifactError, ConfigError
from blackbox_delta.heads.calibrated import CalibratedHead, ContextualHead, FittedShift
from blackbox_delta.heads.linear import FittedLinear
from blackbox_delta.heads.logistic import LogisticHead
from blackbox_delta.heads.plain import FittedPlain, PlainHead
from blackbox_delta.heads.ridge import RidgeHead
from blackbox_delta.types import FittedHead, Head

AnyHead: TypeAlias = PlainHead | CalibratedHead | ContextualHead | LogisticHead | RidgeHead

HEADS: Mapping[str, Callable[[], AnyHead]] = MappingProxyType(
    {
        "plain": PlainHead,
        "calibrated": CalibratedHead,
        "contextual": ContextualHead,
        "logistic": LogisticHead,
        "ridge": RidgeHead,
    }
)

__all__ = [
    "HEADS",
    "CalibratedHead",
    "ContextualHead",
    "LogisticHead",
    "PlainHead",
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


def head_from_state(kind: str, state: Mapping[str, NDArray[Any]]) -> FittedHead:
    """Rebuilds a fitted head exactly from its kind and the arrays of its ``state()``.

    Raises:
        ArtifactError: There is no such head, or an array is missing.
    """
    try:
        if kind == "plain":
            return FittedPlain()
        if kind in ("calibrated", "contextual"):
            return FittedShift(kind, state["offset"])
        if kind in ("logistic", "ridge"):
            return FittedLinear.from_state(kind, state)
    except KeyError as error:
        raise ArtifactError(f"The saved {kind!r} head is damaged: {error} is missing.") from error
    raise ArtifactError(
        f"The saved head is of kind {kind!r}, which this version does not know. "
        "Load it with the version that wrote it."
    )
