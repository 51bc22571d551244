"""Which delta answers best? The table of a comparison's searches, a row for each delta.

Reads what ``blackbox-delta compare`` wrote, from one folder or several, so that a long comparison
can be made in pieces and on several machines.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from common import RESULTS, Table, publish
from rich.console import Console

from blackbox_delta.compare.outcome import CSV_NAME
from blackbox_delta.compare.specs import SEARCH, Spec
from blackbox_delta.errors import BlackBoxDeltaError, DataError

NAME = "delta_quality"
#: What is kept of a cell.
COLUMNS = (
    "task",
    "method",
    "seed",
    "shots",
    "dtype",
    "test_n",
    "accuracy",
    "train_accuracy",
    "calls",
    "queries",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "artifact_bytes",
    "delta_size",
    "dimension",
)
#: Cells that differ in one of these do not compare: each kind has a table of its own.
KIND = ("task", "dtype", "shots", "test_n")
LEGEND = (
    "D: numbers of the delta; d: those that are searched. kept kB: beside the model, mean. peak "
    "MB: the most that the process held while it searched and answered. calls: test accuracy after "
    "so many passes over the training examples at most, the mean and that of each seed ({seeds}, "
    "in this order); – was not measured."
)
NOTHING = "–"


@dataclass(frozen=True)
class Cells:
    """What was found with one delta, or one head alone.

    Attributes:
        name: The method without its budget and shots.
        lines: Its cells by budget in calls (0 where it takes none) and seed.
    """

    name: str
    lines: dict[tuple[int, int], dict[str, str]]

    def row(self, budgets: Sequence[int], seeds: Sequence[int]) -> list[str]:
        """Its row of the table."""
        lines = list(self.lines.values())
        size, dimension = lines[0]["delta_size"], lines[0]["dimension"]
        kept = np.mean([float(line["artifact_bytes"]) for line in lines]) / 1e3
        peak = max(float(line["peak_memory_bytes"]) for line in lines) / 1e6
        costs = [f"{int(size):,}" if size else NOTHING, dimension or NOTHING]
        costs += [f"{kept:,.1f}", f"{peak:,.0f}"]
        return [self.name, *costs, *(self._accuracy(budget, seeds) for budget in budgets)]

    def _accuracy(self, budget: int, seeds: Sequence[int]) -> str:
        found = [self.lines.get((budget, seed)) for seed in seeds]
        known = [float(line["accuracy"]) for line in found if line]
        if not known:
            return NOTHING
        each = ", ".join(f"{float(line['accuracy']):.3f}" if line else NOTHING for line in found)
        return f"{np.mean(known):.3f} ({each})"


def read(paths: Iterable[Path]) -> list[dict[str, str]]:
    """All cells that were not refused, kind by kind, the later of two that are the same.

    Raises:
        DataError: A file cannot be read, or has other columns.
    """
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for path in paths:
        file = path / CSV_NAME if path.is_dir() else path
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                lines = list(csv.DictReader(stream))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        for line in lines:
            if missing := sorted(set(COLUMNS) - set(line)):
                raise DataError(f"{file} has no column {missing[0]!r}; is it a comparison's?")
            if line["accuracy"]:
                key = tuple(line[name] for name in (*KIND, "method", "seed"))
                cells[key] = {name: line[name] for name in COLUMNS}
    if not cells:
        raise DataError("there are no finished cells")
    return [cells[key] for key in sorted(cells)]


def table(title: str, lines: Sequence[dict[str, str]], seeds: Sequence[int]) -> Table:
    """A row for each delta and for each method that searches none."""
    found: dict[str, Cells] = {}
    for line in lines:
        spec = Spec.parse(line["method"])
        name = str(replace(spec, calls=None, shots=None))
        cells = found.setdefault(name, Cells(name, {}))
        cells.lines[spec.calls or 0, int(line["seed"])] = line
    budgets = sorted(
        {budget for cells in found.values() for budget, _ in cells.lines}, reverse=True
    )
    heads = [f"{budget} calls" if budget else "no search" for budget in budgets]
    order = sorted(found.values(), key=lambda each: (each.name.startswith(SEARCH), each.name))
    columns = ["method", "D", "d", "kept kB", "peak MB", *heads]
    return Table(title, columns, [cells.row(budgets, seeds) for cells in order])


def _title(task: str, dtype: str, shots: str, test_n: str) -> str:
    """Of the table of one kind of cells."""
    return ", ".join(filter(None, [task, dtype, f"{shots} shots", f"{test_n} test examples"]))


def write_csv(lines: Sequence[dict[str, str]], path: Path) -> None:
    """The cells that the tables are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("paths", type=Path, nargs="+", help="comparisons' folders or their .csv")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table is put")
    options = parser.parse_args()
    lines = read(options.paths)
    seeds = sorted({int(line["seed"]) for line in lines})
    tables = [
        table(_title(*kind), list(group), seeds)
        for kind, group in groupby(lines, key=itemgetter(*KIND))
    ]
    write_csv(lines, options.results / f"{NAME}.csv")
    note = LEGEND.format(seeds=", ".join(map(str, seeds)))
    publish(Console(), tables, [note], options.results / f"{NAME}.md")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
