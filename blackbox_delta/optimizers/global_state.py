"""Keeps a library that draws from global random generators away from everybody else's."""

from __future__ import annotations

import random
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_State: TypeAlias = tuple[Any, Any]


class PrivateGlobalState:
    """numpy's and Python's global random state, lent for the length of a ``with`` block.

    Some of nevergrad's optimizers, and the import of nevergrad itself, draw from the global
    generators. Inside :meth:`lent` these hold a state of this object's own, and afterwards
    the caller's: results depend on the seed alone, and nobody else's numbers change.
    Not safe with other threads that use the global generators at the same time.

    Args:
        seed: Where the private states start.
    """

    def __init__(self, seed: int) -> None:
        self._inside: _State = (
            np.random.RandomState(seed).get_state(),
            random.Random(seed).getstate(),
        )

    @contextmanager
    def lent(self, *, keep: bool = True) -> Iterator[None]:
        """Swaps the states in and out; warnings raised inside are dropped.

        Args:
            keep: Whether what is drawn inside moves the private state on.
        """
        outside = _read()
        _write(self._inside)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            if keep:
                self._inside = _read()
            _write(outside)


def _read() -> _State:
    return np.random.get_state(), random.getstate()  # noqa: NPY002


def _write(state: _State) -> None:
    np.random.set_state(state[0])  # noqa: NPY002
    random.setstate(state[1])
