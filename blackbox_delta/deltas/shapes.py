"""What kinds of delta ask of θ and p0."""

from __future__ import annotations

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.types import FloatArray


def check_theta(theta: FloatArray, size: int, what: str) -> None:
    """Raises ConfigError unless θ has shape (λ, D) for the D = ``size`` numbers of ``what``."""
    if theta.ndim != 2 or theta.shape[1] != size:
        raise ConfigError(f"Expected θ of shape (λ, {size}) for this {what}, not {theta.shape}.")


def zeros(size: int) -> FloatArray:
    """p0 of so many zeros, which takes no memory and cannot be written to."""
    return np.broadcast_to(np.float32(0), size)
