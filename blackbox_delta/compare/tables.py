"""Tables of a comparison, for a terminal, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blackbox_delta.compare.report import COLUMNS, Report, Spread, Summary

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_SCORES = (
    "method",
    "seeds",
    "accuracy",
    "macro-F1",
    "gain",
    "95 %\ninterval",
    "p",
    "train\n− test",
)
_COSTS = (
    "method",
    "calls",
    "queries",
    "tokens",
    "seconds",
    "peak MB",
    "kept kB",
    "queries\nan answer",
)
_SCORES_NOTE = (
    "Accuracy, macro-F1 and gain are in points, with the mean ± standard deviation over seeds; all "
    "seeds and methods answer the same test examples. Gain: accuracy less that of the calibrated "
    "untuned model, with its 95 % interval and the exact paired test over all seeds (over all "
    "tasks: on all their test examples together). Train − test: how much better the training "
    "examples are answered than the test examples."
)
_COSTS_NOTE = (
    "Calls are passes over the training examples, spent on tuning; queries and tokens likewise. A "
    "forward and a backward pass count as three. Peak MB is the memory of the whole process. Kept "
    "kB is what must be kept beside the model."
)
_RATES_NOTE = (
    "The learning rate of a method with gradients is chosen on the development examples of the "
    "first seed, whose costs hold the whole grid, and kept for the other seeds."
)
NOTES = (_SCORES_NOTE, _COSTS_NOTE, _RATES_NOTE)
_NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        title: Its heading.
        columns: Headings of one or two lines; the first column is text, the others are numbers.
        rows: As many cells each as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        from rich.box import SIMPLE
        from rich.table import Table as RichTable
        from rich.text import Text

        # Without padding all columns of the scores fit side by side into 80 characters.
        title = Text(self.title, "bold")
        table = RichTable(title=title, title_justify="left", box=SIMPLE, padding=0)
        for index, column in enumerate(self.columns):
            justify: Literal["left", "right"] = "right" if index else "left"
            table.add_column(Text(column), justify=justify, no_wrap=not index)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """With the title in front."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [_line(row) for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


def tables(report: Report) -> Iterator[Table]:
    """Scores and costs over all tasks, where there are several, and of each task."""
    tasks = report.tasks
    for task in (None, *tasks) if len(tasks) > 1 else tasks:
        summaries = report.summaries(task)
        name = f"mean of {len(tasks)} tasks" if task is None else task
        yield Table(f"Scores: {name}", _SCORES, [_scores(each) for each in summaries])
        yield Table(f"Costs: {name}", _COSTS, [_costs(each) for each in summaries])


def markdown(report: Report, heading: str, pictures: Iterable[str]) -> str:
    """The whole report.

    Args:
        report: The figures.
        heading: What was compared, in a line.
        pictures: Names of image files beside the report.
    """
    parts = ["# Comparison", "", heading, ""]
    parts += [f"![{name.partition('.')[0]}]({name})\n" for name in pictures]
    parts += [table.markdown() for table in tables(report)]
    parts += [f"{line}\n" for line in remarks(report)]
    parts += [f"{note}\n" for note in NOTES]
    return "\n".join(parts)


def remarks(report: Report) -> list[str]:
    """What methods could not be applied and why, and what does not compare as it stands."""
    said = [
        f"Not applied: {'; '.join(where)}. Reason: {reason}"
        for reason, where in report.refusals.items()
    ]
    if len(report.dtypes) > 1:
        counts = ", ".join(f"{count} in {dtype}" for dtype, count in report.dtypes.items())
        said.append(
            f"Cells were measured in several precisions ({counts}; each cell's is in its line of "
            "the CSV), so a part of their differences may be rounding."
        )
    elif report.dtype and report.dtypes and report.dtype not in report.dtypes:
        [before] = report.dtypes
        said.append(
            f"All cells were measured before, in {before}; the model is open in {report.dtype} "
            "now. Give another --out to measure them in it."
        )
    return said


def csv_text(report: Report) -> str:
    """One unrounded line a cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.lines())
    return text.getvalue()


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _scores(summary: Summary) -> list[str]:
    row = [
        summary.method,
        str(len(summary.seeds)),
        _spread(summary.accuracy),
        _spread(summary.macro_f1),
    ]
    verdict = summary.verdict
    if verdict is None:
        row += [_NOTHING] * 3
    else:
        interval = f"{_signed(verdict.low)}, {_signed(verdict.high)}"
        p = "<0.001" if verdict.p_value < 0.001 else f"{verdict.p_value:.3f}"
        row += [_signed(verdict.difference), interval, p]
    return [*row, _signed(summary.gap)]


def _costs(summary: Summary) -> list[str]:
    costs = summary.costs
    return [
        summary.method,
        f"{costs['calls']:,.4g}" if costs["calls"] < 1000 else f"{costs['calls']:,.0f}",
        f"{costs['queries']:,.0f}",
        f"{costs['tokens']:,.0f}",
        f"{costs['seconds']:,.1f}",
        f"{costs['peak_memory_bytes'] / 1e6:,.0f}",
        f"{costs['artifact_bytes'] / 1e3:,.1f}",
        f"{costs['test_queries']:.4g}",
    ]


def _spread(spread: Spread) -> str:
    mean = f"{100 * spread.mean:.1f}"
    return mean if spread.deviation is None else f"{mean} ± {100 * spread.deviation:.1f}"


def _signed(fraction: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"
