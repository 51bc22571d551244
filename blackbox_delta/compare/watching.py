"""How a comparison comes on, on a terminal or in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.contract import Step
from blackbox_delta.compare.grid import Position, Watcher

_PAUSE = 30.0  # seconds between two lines about the same cell in a log


@contextmanager
def watching(console: Console, cells: int) -> Iterator[Watcher]:
    """Bars on a terminal; elsewhere plain lines.

    Args:
        console: Where to.
        cells: Their number.
    """
    if not console.is_interactive:
        yield Lines(console, cells)
        return
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        refresh_per_second=2,
    )
    with display:
        yield Bars(display, cells)


class Lines:
    """A line when a cell begins, when it is done, and now and then between.

    Args:
        console: Where to.
        cells: Their number.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self, console: Console, cells: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._cells = cells
        self._clock = clock
        self._done = 0

    def begin(self, position: Position) -> Step:
        """Says so; takes the cell's steps."""
        title = f"{self._done + 1} of {self._cells}: {position}"
        self._say(f"{title} …")
        last = self._clock()

        def step(share: float, note: str) -> None:
            nonlocal last
            if self._clock() - last >= _PAUSE:
                last = self._clock()
                self._say(f"{title}: {share:.0%}, {note}")

        return step

    def end(self, position: Position, finding: Finding) -> None:
        """Says what was found."""
        self._done += 1
        self._say(f"{self._done} of {self._cells}: {position}: {said(finding)}")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class Bars:
    """A bar for all cells and one for the cell that is worked on.

    Args:
        display: Shows them.
        cells: Their number.
    """

    def __init__(self, display: Progress, cells: int) -> None:
        self._display = display
        self._all = display.add_task("cells", total=cells, note="")
        self._one = display.add_task("", total=100, note="", visible=False)

    def begin(self, position: Position) -> Step:
        """Shows the cell; takes its steps."""
        title = escape(str(position))
        self._display.reset(self._one, description=title, note="", visible=True)
        return lambda share, note: self._display.update(
            self._one, completed=round(100 * share), note=escape(note)
        )

    def end(self, position: Position, finding: Finding) -> None:
        """Leaves a line above the bars."""
        self._display.console.print(Text(f"{position}: {said(finding)}"))
        self._display.advance(self._all)


def said(finding: Finding) -> str:
    """What was found, in a few words."""
    measured = finding.measured
    if measured is None:
        return f"not applied: {finding.refusal}"
    right = measured.log_proba.argmax(axis=1) == finding.truth
    return f"accuracy {100 * right.mean():.1f}, {measured.seconds:,.1f} s of tuning"
