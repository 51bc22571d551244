"""Consoles whose text can be read back, and results to show."""

from __future__ import annotations

import io
import re

from rich.console import Console

from blackbox_delta.display import show_result
from blackbox_delta.types import Json

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal(width: int = 80) -> Console:
    return Console(force_terminal=True, file=io.StringIO(), width=width, _environ={})


def pipe(width: int = 80) -> Console:
    return Console(force_terminal=False, file=io.StringIO(), width=width, _environ={})


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows_of(console: Console) -> dict[str, list[str]]:
    """The table rows by their first cell; cells are two spaces or more apart."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in shown(console).splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def result(**changes: object) -> Json:
    values: Json = {
        "model": "fake",
        "shots": 8,
        "seed": 13,
        "chosen": "head",
        "head": "ridge",
        "test_n": 120,
        "dev_n": 16,
        "untuned_accuracy": 0.5,
        "untuned_macro_f1": 0.3333,
        "baseline_accuracy": 0.925,
        "baseline_macro_f1": 0.924,
        "test_accuracy": 0.958,
        "test_macro_f1": 0.957,
        "baseline_dev_accuracy": 0.75,
        "dev_accuracy": 0.875,
        "calls": 84,
        "queries": 1344,
        "tokens": 21504,
        "test_queries": 240,
        "backend_seconds": 1.5,
        "test_seconds": 0.5,
        "head_seconds": 0.25,
        "optimizer_seconds": 0.125,
        "verdict": "Tuned is better [by 3.3 points].",
    }
    return values | changes


def shown_result(found: Json, width: int = 80) -> tuple[dict[str, list[str]], str]:
    console = pipe(width)
    show_result(console, found)
    return rows_of(console), shown(console)
