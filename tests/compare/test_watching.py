from __future__ import annotations

import io

from comparing import film_task, made
from rich.console import Console

from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.grid import Position
from blackbox_delta.compare.methods import Contender
from blackbox_delta.compare.specs import Spec
from blackbox_delta.compare.watching import Lines, watching

POSITION = Position(film_task(), Contender.of(Spec("untuned")), 13)
DONE = made("films", "untuned", 13, [0, 0, 0, 1], calls=3)


def test_a_log_has_a_line_at_both_ends_and_few_between() -> None:
    stream, now = io.StringIO(), 0.0
    lines = Lines(Console(file=stream, width=40), 2, clock=lambda: now)
    step = lines.begin(POSITION)
    for seconds in range(0, 70, 10):
        now = float(seconds)
        step(seconds / 100, f"{seconds} calls")
    lines.end(POSITION, DONE)
    assert stream.getvalue().splitlines() == [
        "1 of 2: films untuned seed 13 …",
        "1 of 2: films untuned seed 13: 30%, 30 calls",
        "1 of 2: films untuned seed 13: 60%, 60 calls",
        "1 of 2: films untuned seed 13: accuracy 75.0, 1.5 s of tuning",
    ]


def test_a_refusal_is_said_with_its_reason() -> None:
    stream = io.StringIO()
    with watching(Console(file=stream), 1) as watcher:
        watcher.end(POSITION, Finding("films", 13, "untuned", 16, refusal="[no] way"))
    assert stream.getvalue() == "1 of 1: films untuned seed 13: not applied: [no] way\n"


def test_a_terminal_shows_bars() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with watching(console, 2) as watcher:
        step = watcher.begin(POSITION)
        step(0.5, "[half] way")
        watcher.end(POSITION, DONE)
    shown = stream.getvalue()
    assert "films untuned seed 13: accuracy 75.0" in shown
    assert "1/2" in shown
    assert "50/100" in shown
    assert "[half] way" in shown
