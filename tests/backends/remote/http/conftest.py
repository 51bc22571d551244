"""Makes the tests' shared material importable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sending import Run

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def ask(in_real_time: Any) -> Callable[..., Any]:
    """Makes one request through a transport and returns what it returns or raises."""
    from calling import one_request

    return lambda *args, **options: in_real_time(one_request(*args, **options))


@pytest.fixture
def send(in_virtual_time: Any) -> Callable[..., Run]:
    """Sends jobs to a server."""
    from sending import Run

    return lambda server, work, **options: Run(in_virtual_time, server, work, **options)
