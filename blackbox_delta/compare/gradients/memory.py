"""How much memory the process took."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> float:
    """The most memory, in MB, that this process has held since it began."""
    unit = 1024 if sys.platform != "darwin" else 1024**2  # kilobytes, but bytes on a Mac
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
