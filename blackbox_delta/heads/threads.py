"""Small matrices on one thread.

A head's matrices are too small to share out. Beside a backend whose own threads still spin,
waiting for them was measured to cost five to ten times the work itself.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # looks for the loaded libraries, once


def blas_on_one_thread() -> AbstractContextManager[Any]:
    """Keeps numpy's and scipy's linear algebra on one thread; takes 0.05 ms."""
    context: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return context


def sklearn_on_one_thread() -> AbstractContextManager[Any]:
    """Keeps scikit-learn's OpenMP on one thread as well; takes a few milliseconds."""
    import sklearn.linear_model  # noqa: F401  # must be loaded to be found
    from threadpoolctl import threadpool_limits

    context: AbstractContextManager[Any] = threadpool_limits(limits=1)
    return context
