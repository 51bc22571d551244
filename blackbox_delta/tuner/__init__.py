"""The search of one delta: the loop from ask to tell, its plan, its stages and its outcome."""

from __future__ import annotations

from blackbox_delta.tuner.loop import Tuner
from blackbox_delta.tuner.outcome import Observer, Option, Outcome, Progress, Seconds, choose
from blackbox_delta.tuner.plan import CHECK_EVERY, passes_over_test

__all__ = [
    "CHECK_EVERY",
    "Observer",
    "Option",
    "Outcome",
    "Progress",
    "Seconds",
    "Tuner",
    "choose",
    "passes_over_test",
]
