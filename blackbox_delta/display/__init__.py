"""What a terminal shows: plans, the course of a search, its result, and scores.

Everything goes through a :class:`rich.console.Console` that the caller gives, so that the course
can go to stderr and the result to stdout.
"""

from __future__ import annotations

from blackbox_delta.display.course import (
    LiveDisplay,
    answer_display,
    progress_line,
    search_display,
    seconds_left,
    tell_unanswered,
)
from blackbox_delta.display.plan import plan_line
from blackbox_delta.display.remote import (
    access_line,
    asking_line,
    show_probe,
    show_spending,
    spent_line,
)
from blackbox_delta.display.result import show_result, show_seeds_result
from blackbox_delta.display.tables import say, show_forecasts, show_metrics, show_table

__all__ = [
    "LiveDisplay",
    "access_line",
    "answer_display",
    "asking_line",
    "plan_line",
    "progress_line",
    "say",
    "search_display",
    "seconds_left",
    "show_forecasts",
    "show_metrics",
    "show_probe",
    "show_result",
    "show_seeds_result",
    "show_spending",
    "show_table",
    "spent_line",
    "tell_unanswered",
]
