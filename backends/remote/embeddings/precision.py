"""Floating-point formats that weights are stored and sent in, in terms of numpy alone."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.types import FloatArray

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]


def stored(array: FloatArray, precision: Precision) -> NDArray[Any]:
    """The numbers as little-endian words of ``precision``, rounded to the nearest even.

    bfloat16, which numpy does not know, comes as its 16 bits. What is too large becomes infinite.
    """
    if precision == "float32":
        return np.ascontiguousarray(array, dtype="<f4")
    if precision == "float16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array, dtype="<f2")
    words = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    half = (words >> 16) & 1  # one more where the last bit that stays is odd: ties go to even
    half += 0x7FFF
    half += words  # wraps for some NaN, which are replaced below
    half >>= 16
    bits = half.astype("<u2")
    if (missing := np.isnan(array)).any():
        bits[missing] = 0x7FC0
    return bits


def restored(words: NDArray[Any], precision: Precision) -> FloatArray:
    """The float32 numbers that :func:`stored` words stand for."""
    if precision == "bfloat16":
        return (words.astype("<u4") << 16).view("<f4").astype(np.float32, copy=False)
    return words.astype(np.float32)


def rounded(value: float, precision: Precision) -> float:
    """The nearest number that ``precision`` can hold."""
    return float(restored(stored(np.array([value], np.float32), precision), precision)[0])
