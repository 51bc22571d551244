"""The course of a search, and of answering: a live display, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from blackbox_delta.budget import Budget
from blackbox_delta.display.tables import counted, rounded, say
from blackbox_delta.prices import dollars
from blackbox_delta.tuner import Observer, Progress

_BAR_WIDTH = 24


@contextmanager
def search_display(console: Console) -> Iterator[Observer]:
    """An observer that shows a search: a live display, or one plain line a step.

    The plain lines are for logs and pipes, where nothing can be drawn over.
    """
    if not console.is_interactive:
        yield lambda progress: say(console, progress_line(progress))
        return
    display = LiveDisplay()
    with Live(display, console=console, refresh_per_second=2):
        yield display.update
        display.finish()


@contextmanager
def answer_display(
    console: Console, texts: int, *, hidden: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar for a number of texts; what it yields is told how many more are answered.

    It is gone when they all are, and nothing is shown where nothing can be drawn over.
    """
    if hidden or not console.is_interactive:
        yield lambda _answered: None
        return
    columns = (BarColumn(_BAR_WIDTH), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=2,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=texts)
        yield lambda answered: bar.advance(task, answered)


def tell_unanswered(console: Console, unanswered: int, texts: int) -> None:
    """Says how many predictions are not the model's, where there are any."""
    if unanswered:
        say(
            console,
            f"To {unanswered:,} of {texts:,} texts the model named no label; their lines say "
            '"unanswered".',
        )


class LiveDisplay:
    """A bar with the time left, and the figures below it. The time runs between steps.

    Args:
        clock: Seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._progress: Progress | None = None
        self._ends: float | None = None

    def update(self, progress: Progress) -> None:
        """Takes in one more step."""
        self._progress = progress
        self._ends = self._clock() + seconds_left(progress.budget)

    def finish(self) -> None:
        """The search is over: what stays on the screen promises no more time."""
        self._ends = None

    def __rich__(self) -> RenderableType:
        if self._progress is None:
            return Text("asking the untuned model first …")
        progress, budget = self._progress, self._progress.budget
        total, done, said = float(budget.limit), float(budget.spent), _spent(budget)
        if progress.to_test:
            total, done, said = float(progress.to_test), float(progress.tested), _tested(progress)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=done, width=_BAR_WIDTH),
            Text(said),
            Text("" if progress.to_test else self._time()),
        )
        return Group(bar, Text(_found(self._progress)), Text(_also_spent(budget)))

    def _time(self) -> str:
        if self._ends is None:
            return ""
        left = self._ends - self._clock()
        if left <= 0 or self._progress is None:
            return "finishing …"
        return _left(left, self._progress)


def progress_line(progress: Progress) -> str:
    """One step of the search or of the test in one line."""
    if progress.to_test:
        return _tested(progress)
    budget = progress.budget
    left = _left(seconds_left(budget), progress)
    return ", ".join([_found(progress), _spent(budget), _also_spent(budget), left])


def seconds_left(budget: Budget) -> float:
    """Model time for the rest of the budget, at the rate of what was spent.

    It rests on the time that the backend reported, not the clock's: a resumed run replays its
    first part in no time and would promise too much.
    """
    rest = max(0.0, budget.limit - budget.spent)
    return budget.usage.seconds * rest / budget.spent if budget.spent else 0.0


def _found(progress: Progress) -> str:
    if progress.what == "views":
        return (
            f"{counted(progress.generation, 'view')}: held-out loss {progress.best_loss:.4f}, "
            f"held-out accuracy {progress.dev_accuracy:.3f}"
        )
    return (
        f"generation {progress.generation}: best loss {progress.best_loss:.4f}, "
        f"dev accuracy {progress.dev_accuracy:.3f}"
    )


def _tested(progress: Progress) -> str:
    return f"test: {progress.tested:,} of {progress.to_test:,} queries answered"


def _spent(budget: Budget) -> str:
    if budget.unit == "usd":
        return f"{dollars(budget.spent)} of {budget}"
    return f"{budget.spent:,.0f} of {budget}"


def _also_spent(budget: Budget) -> str:
    """What was spent in the other units."""
    usage = budget.usage
    units = {"calls": budget.calls, "queries": usage.queries, "tokens": usage.tokens}
    parts = [f"{rounded(value)} {unit}" for unit, value in units.items() if unit != budget.unit]
    if budget.cost is not None and budget.unit != "usd":
        parts.append(dollars(budget.cost))
    if usage.lost:
        parts.append(f"{usage.lost:,} lost")
    if usage.unparsed:  # said while something can still be saved
        parts.append(f"{counted(usage.unparsed, 'reply')} without a label")
    return ", ".join(parts)


def _left(seconds: float, progress: Progress) -> str:
    # Views are asked as long as they pay: the budget need not be used up.
    most = "at most " if progress.what == "views" else ""
    return f"{most}{_clock_time(seconds)} left"


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
