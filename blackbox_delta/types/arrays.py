"""Arrays and JSON."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Vector: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
Json: TypeAlias = dict[str, Any]
