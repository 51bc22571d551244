"""Contract tests that any optimizer, delta or backend must pass, ours or a plug-in's.

Each function raises ``AssertionError`` and says which promise was broken::

    def test_contract():
        check_backend(MyBackend("some-model"))
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from blackbox_delta._backend_contract import as_json, check_backend, require, require_members
from blackbox_delta.types import Delta, FloatArray, Optimizer, Vector

__all__ = ["OptimizerFactory", "check_backend", "check_delta", "check_optimizer"]

OptimizerFactory: TypeAlias = Callable[[int, int], Optimizer]
"""Makes an optimizer from d and a seed."""

_DIMENSION = 5
_CANDIDATES = 3


# ------------------------------------------------------------------------- optimizers


def check_optimizer(factory: OptimizerFactory) -> None:
    """Checks an optimizer against :class:`blackbox_delta.types.Optimizer`.

    Args:
        factory: Makes one from d and a seed.

    Raises:
        AssertionError: It breaks a promise.
    """
    optimizer = factory(_DIMENSION, 1)
    require_members(optimizer, Optimizer)
    require(isinstance(optimizer.name, str) and optimizer.name, "name must be a text")
    require(optimizer.population >= 1, "population must be at least 1")
    _check_mean(optimizer)
    for count in (1, 2, optimizer.population, optimizer.population + 3):
        _generation(optimizer, count)
        _check_mean(optimizer)
    _check_private_randomness(factory)
    _check_progress(factory)


def _sphere(z: Vector) -> Vector:
    """Least at 0.5 in every dimension, so that starting at 0 is no solution."""
    return np.asarray(((z - 0.5) ** 2).sum(axis=-1))


def _generation(optimizer: Optimizer, count: int) -> Vector:
    z = optimizer.ask(count)
    shape = (count, _DIMENSION)
    require(z.shape == shape, f"ask({count}) must return shape {shape}, not {z.shape}")
    require(z.dtype == np.float64, f"ask must return float64, not {z.dtype}")
    require(np.isfinite(z).all(), "ask must return finite numbers")
    asked = z.copy()
    optimizer.tell(z, _sphere(z))
    require(np.array_equal(asked, z), "tell must not change the candidates that it is given")
    return asked


def _check_mean(optimizer: Optimizer) -> None:
    mean = optimizer.mean
    require(mean.shape == (_DIMENSION,), f"mean must have shape (d,), not {mean.shape}")
    require(np.isfinite(mean).all(), "mean must be finite")


def _check_private_randomness(factory: OptimizerFactory) -> None:
    """Equal seeds give equal runs, whatever happens to the global generators, and leave those."""
    one, other = factory(_DIMENSION, 7), factory(_DIMENSION, 7)
    for _ in range(5):
        before = _global_generators()
        first = _generation(one, one.population)
        require(_global_generators() == before, "it must not touch the global generators")
        random.random()
        np.random.random()  # noqa: NPY002
        second = _generation(other, other.population)
        require(np.array_equal(first, second), "equal seeds must give equal candidates")


def _global_generators() -> tuple[Any, ...]:
    name, keys, *others = np.random.get_state()  # noqa: NPY002
    return random.getstate(), name, np.asarray(keys).tobytes(), *others


def _check_progress(factory: OptimizerFactory) -> None:
    optimizer = factory(_DIMENSION, 3)
    start = _sphere(optimizer.mean)
    for _ in range(30):
        _generation(optimizer, optimizer.population)
    end = _sphere(optimizer.mean)
    require(end < start, f"30 generations on a sphere must bring mean closer: {start} to {end}")


# ------------------------------------------------------------------------- deltas


def check_delta(delta: Delta) -> None:
    """Checks a delta against :class:`blackbox_delta.types.Delta`.

    Raises:
        AssertionError: It breaks a promise.
    """
    require_members(delta, Delta)
    require(isinstance(delta.kind, str) and delta.kind, "kind must be a text")
    require(delta.size > 0, "size must be positive")
    groups = delta.groups
    require(groups and min(groups) > 0, f"every group must be positive, not {groups}")
    require(sum(groups) == delta.size, f"groups must add up to D = {delta.size}, not {sum(groups)}")
    held = sum(map(math.prod, delta.shapes))
    require(held == delta.size, f"shapes must hold D = {delta.size} numbers, not {held}")
    shape, origin = (delta.size,), delta.origin
    require(origin.shape == shape, f"origin must have shape {shape}, not {origin.shape}")
    require(origin.dtype == np.float32, f"origin must be float32, not {origin.dtype}")
    require(np.isfinite(origin).all(), "origin must be finite")
    require(np.isfinite(delta.scale) and delta.scale > 0, "scale must be a positive number")

    as_json("config", delta.config())

    noise = np.random.default_rng(0).standard_normal((_CANDIDATES, delta.size))
    theta = (origin + delta.scale * noise).astype(np.float32)
    tensors = _unpacked(delta, theta)
    for index in range(_CANDIDATES):
        alone = _unpacked(delta, theta[index : index + 1])
        for name, value in alone.items():
            same = np.array_equal(value[0], tensors[name][index])
            require(same, f"'{name}' of a candidate must not depend on the others in the batch")
    _check_linear(delta, theta, tensors)


def _unpacked(delta: Delta, theta: FloatArray) -> Mapping[str, FloatArray]:
    given = theta.copy()
    batch = delta.unpack(theta)
    require(np.array_equal(given, theta), "unpack must not change θ")
    require("+".join(batch.kinds) == delta.kind, f"the batch's kind must be '{delta.kind}'")
    require(batch.tensors, "unpack must return tensors")
    for name, value in batch.tensors.items():
        leads = value.ndim > 0 and len(value) == len(theta)
        require(leads, f"'{name}' must have a leading λ = {len(theta)}, not {value.shape}")
        require(value.dtype == np.float32, f"'{name}' must be float32, not {value.dtype}")
        require(np.isfinite(value).all(), f"'{name}' must be finite")
    return batch.tensors


def _check_linear(delta: Delta, theta: FloatArray, tensors: Mapping[str, FloatArray]) -> None:
    """The middle between two candidates must unpack to the middle between their tensors."""
    middle = _unpacked(delta, (theta[:1] + theta[1:2]) / np.float32(2))
    for name, value in tensors.items():
        expected = (value[0] + value[1]) / 2
        np.testing.assert_allclose(
            middle[name][0],
            expected,
            rtol=1e-4,
            atol=1e-5 * (1 + float(np.abs(expected).max())),
            err_msg=f"unpack must be linear in θ, and '{name}' is not",
        )
