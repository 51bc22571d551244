"""Checks that every optimizer shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blackbox_delta.types import Vector


def check_settings(dimension: int, population: int, sigma: float) -> None:
    """Raises ConfigError unless d >= 1, λ >= 1 and σ is a positive number."""
    if dimension < 1:
        raise ConfigError(f"The search dimension must be at least 1, not {dimension}.")
    if population < 1:
        raise ConfigError(f"The population must be at least 1, not {population}.")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"The initial step size sigma must be a positive number, not {sigma}.")


def check_parts(name: str, parts: Sequence[int]) -> None:
    """Raises ConfigError unless an optimizer that tells parts of z apart has two or more."""
    if len(parts) < 2:
        raise ConfigError(
            f"{name} goes by the parts of z, and the {sum(parts)} numbers here are "
            "all in one; take the subspace 'blocks' and a delta in several layers, "
            "modules or slots, or another optimizer, such as 'cma'"
        )


def check_asked(count: int) -> None:
    """Raises ConfigError unless at least one candidate is asked for."""
    if count < 1:
        raise ConfigError(f"At least one candidate must be asked for, not {count}.")


def check_told(z: Vector, losses: Vector, dimension: int) -> None:
    """Refuses what must never steer a search.

    Args:
        z: Candidates of shape (λ, d).
        losses: Their losses of shape (λ,).
        dimension: d.

    Raises:
        ConfigError: The shapes do not fit, or a number is not finite. Errors are never
            scores: a failed reply must be retried or raised before it gets here.
    """
    if z.ndim != 2 or z.shape[1] != dimension or losses.shape != z.shape[:1]:
        raise ConfigError(
            f"Candidates of shape (λ, {dimension}) with losses of shape (λ,) are expected, "
            f"not {z.shape} with {losses.shape}."
        )
    if not np.isfinite(losses).all():
        first = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise ConfigError(
            f"The loss of candidate {first} is {losses[first]}. Losses must be finite numbers: "
            "retry or raise a failed reply, never turn it into a loss."
        )
    if not np.isfinite(z).all():
        raise ConfigError("The candidates hold numbers that are not finite.")
