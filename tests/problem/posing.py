"""A small task put to the fake model."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import draw_split, load_task

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=7)
SMALL = {"recipe": "search", "dimension": 20, "soft_tokens": 3}
#: Where nothing is searched, nothing is said of it.
UNSEARCHED = {"dimension": None, "soft_tokens": None}
AUTO = {"recipe": "auto"}
HIDDEN = 16


def build(backend: FakeBackend | None = None, **settings: Any) -> Problem:
    return build_problem(backend or FakeBackend(), SPLIT, Settings.of({**SMALL, **settings}))
