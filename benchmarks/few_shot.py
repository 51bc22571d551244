"""What does tuning gain? ``blackbox_delta.tune`` with its defaults, on tasks × seeds.

Every cell of the table is a run folder ``OUT/TASK-SEED``. Finished cells are read, not run again,
and a cell that was interrupted is resumed, so the benchmark can be stopped at any moment.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, MODEL, RESULTS, Table, machine, peak_memory_mb, publish
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import blackbox_delta.tuner
from blackbox_delta.api import draw_for, tune
from blackbox_delta.backends import open_backend
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.http.address import parse_base_url
from blackbox_delta.errors import BlackBoxDeltaError, DataError, RunError
from blackbox_delta.runs import RUN_NAME, read_result
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import TaskData, load_task
from blackbox_delta.types import Backend, Json

#: Mean test accuracy that the defaults are meant to reach with 16 shots on SmolLM2-135M.
AIMS = {"sst2": 0.78, "trec": 0.57, "agnews": 0.81}
SIGNIFICANCE = 0.05
#: Written beside a run's own files, which do not hold it.
MEMORY_NAME = "peak_memory.json"
LEGEND = (
    "calibrated: the untuned model, calibrated on the training examples. difference: tuned less "
    "calibrated, with p of the exact paired test. seconds: the search, without scoring the test "
    "part; own percent: the share of it outside the model. queries per answer: what the tuned "
    "model takes for a text. peak mb: the most that the process has held so far."
)
CELL = ("task", "seed")
SCORES = ("untuned", "calibrated", "tuned", "macro_f1", "difference", "p", "chosen")
COSTS = ("calls", "queries", "queries_per_answer", "seconds", "own_percent", "peak_mb")


@dataclass(frozen=True)
class Cell:
    """One task with one seed, run or to be run.

    Attributes:
        task: Name of its folder.
        data: Its labelled examples.
        settings: How it is tuned.
        folder: Its run folder.
    """

    task: str
    data: TaskData
    settings: Settings
    folder: Path

    @property
    def title(self) -> str:
        """What progress displays call it."""
        return f"{self.task} seed {self.settings.seed}"

    def result(self, model: str, endpoint: Endpoint | None) -> Json | None:
        """What the run reported, if it is finished.

        Raises:
            RunError: The folder holds a run on another model or server, or with other data or
                settings.
        """
        result = read_result(self.folder)
        if result is None:
            return None
        run = json.loads((self.folder / RUN_NAME).read_text(encoding="utf-8"))
        wanted = {
            "model": model,
            "data": draw_for(self.data, self.settings, self.settings.seed).digest(),
            "settings": self.settings.model_dump(),
        }
        other = [name for name, value in wanted.items() if run[name] != value]
        url = None if endpoint is None else str(parse_base_url(endpoint.base_url)).rstrip("/")
        if run["identity"].get("endpoint") != url:
            other.append("server")
        if other:
            raise RunError(
                f"{self.folder} holds a run with other {' and '.join(other)}; "
                "give another --out, or remove the folder"
            )
        return result

    def run(self, backend: Backend, observer: blackbox_delta.tuner.Observer) -> None:
        """Runs it, from where it was interrupted if it was."""
        settings = self.settings.model_dump()
        tune(backend, self.data, out=self.folder, resume=True, observer=observer, **settings)
        peak = json.dumps({"peak_memory_mb": peak_memory_mb()})
        (self.folder / MEMORY_NAME).write_text(peak + "\n", encoding="utf-8")

    def row(self, result: Json) -> Json:
        """The line of the table, unformatted, by column."""
        # A resumed run's own clock misses what came before; these three are kept in full.
        parts = [result[f"{part}_seconds"] for part in ("optimizer", "head", "backend")]
        comparison = result["comparison"] or {}
        return {
            "task": self.task,
            "seed": self.settings.seed,
            "untuned": result["untuned_accuracy"],
            "calibrated": result["baseline_accuracy"],
            "tuned": result["test_accuracy"],
            "macro_f1": result["test_macro_f1"],
            "difference": comparison.get("difference"),
            "p": comparison.get("p_value"),
            "chosen": result["chosen"],
            "calls": result["calls"],
            "queries": result["queries"],
            "queries_per_answer": result["queries_per_answer"],
            "seconds": sum(parts),
            "own_percent": 100 * sum(parts[:2]) / max(sum(parts), 1e-9),
            "peak_mb": self._peak(),
        }

    def _peak(self) -> float | None:
        try:
            return float(json.loads((self.folder / MEMORY_NAME).read_text())["peak_memory_mb"])
        except (OSError, ValueError, KeyError):
            return None


# -------------------------------------------------------------------------- running


def run_all(
    cells: Sequence[Cell], model: str, endpoint: Endpoint | None, console: Console
) -> list[Json]:
    """Every cell's line, in order; what is finished is only read."""
    # Complains before it works.
    found = {cell.folder: cell.result(model, endpoint) for cell in cells}
    missing = [cell for cell in cells if found[cell.folder] is None]
    console.print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished already")
    backend = open_backend(model, endpoint=endpoint) if missing else None
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with display:
        for number, cell in enumerate(missing, 1):
            assert backend is not None
            cell.run(backend, _observer(display, cell))
            result = found[cell.folder] = cell.result(model, endpoint)
            console.print(f"{number} of {len(missing)}: {cell.title}: {_said(result or {})}")
    return [cell.row(found[cell.folder] or {}) for cell in cells]


def _observer(display: Progress, cell: Cell) -> blackbox_delta.tuner.Observer:
    bar = display.add_task(cell.title, total=1.0, note="")

    def observe(step: blackbox_delta.tuner.Progress) -> None:
        where = "dev" if step.what == "generations" else "held out"
        note = f"{where} {step.dev_accuracy:.3f}, {step.budget.remaining}"
        display.update(bar, completed=step.budget.fraction_spent, note=note)

    return observe


def _said(result: Json) -> str:
    return (
        f"calibrated {_number(result['baseline_accuracy'])}, "
        f"tuned {_number(result['test_accuracy'])}, {result['seconds']:.0f} s"
    )


# ------------------------------------------------------------------------ reporting


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)


def cells_table(title: str, columns: Sequence[str], lines: Iterable[Json]) -> Table:
    """One line a cell."""
    digits = {"calls": 1, "seconds": 0, "own_percent": 2, "peak_mb": 0}
    rows = [[_number(line[name], digits.get(name, 3)) for name in columns] for line in lines]
    return Table(title, [name.replace("_", " ") for name in columns], rows)


def means_table(lines: Sequence[Json]) -> Table:
    """One line a task, its mean over the seeds against the aim."""
    rows = []
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        means = {
            name: float(np.mean([line[name] for line in own]))
            for name in ("untuned", "calibrated", "tuned", "macro_f1")
        }
        aim = AIMS.get(task)
        worse = sum(line["difference"] < 0 and line["p"] < SIGNIFICANCE for line in own)
        met = "–" if aim is None else "yes" if means["tuned"] >= aim else "no"
        cells = [_number(value) for value in means.values()]
        rows.append([task, str(len(own)), *cells, _number(aim, 2), met, str(worse)])
    columns = ["task", "seeds", "untuned", "calibrated", "tuned", "macro f1", "aim", "met"]
    return Table("Mean over the seeds", [*columns, "worse than calibrated"], rows)


def write_csv(lines: Sequence[Json], path: Path) -> None:
    """All lines, unrounded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*CELL, *SCORES, *COSTS))
        writer.writeheader()
        writer.writerows(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=MODEL, help="model to tune (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of task folders (default: %(default)s)"
    )
    parser.add_argument("--tasks", nargs="+", default=list(AIMS), help="names of task folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 21, 42])
    parser.add_argument("--shots", type=int, default=16, help="k (default: %(default)s)")
    parser.add_argument("--budget", default="300", help="for each run (default: %(default)s)")
    parser.add_argument("--max-test", type=int, help="score a sample of this size of the test part")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings than the defaults, e.g. recipe=search scale=0.3",
    )
    parser.add_argument("--base-url", help="server that the model is called on, instead of here")
    parser.add_argument("--embeddings", help="the model's embedding table, with --base-url")
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"), help="run folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables are put")
    options = parser.parse_args()
    if wrong := [pair for pair in options.set if "=" not in pair]:
        parser.error(f"--set takes NAME=VALUE, not {wrong[0]}")
    return options


def make_cells(options: argparse.Namespace) -> list[Cell]:
    """All tasks × seeds; reads the data and checks the settings.

    Raises:
        DataError: A task's data is missing or broken, or has no test part.
        ConfigError: A setting makes no sense.
    """
    other = {
        name: _value(value) for name, _, value in (pair.partition("=") for pair in options.set)
    }
    common = {"shots": options.shots, "budget": options.budget, "max_test": options.max_test}
    tasks = {task: load_task(options.data / task) for task in options.tasks}
    if untested := [task for task, data in tasks.items() if not data.test]:
        raise DataError(f"{options.data / untested[0]} has no test.jsonl to score on")
    return [
        Cell(
            task,
            data,
            Settings.of({**common, **other, "seed": seed}),
            options.out / f"{task}-{seed}",
        )
        for task, data in tasks.items()
        for seed in options.seeds
    ]


def _value(text: str) -> Any:
    """A number where it is one, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    """Runs the benchmark."""
    options, console = parse_arguments(), Console()
    cells = make_cells(options)
    endpoint = None
    if options.base_url:
        endpoint = Endpoint(base_url=options.base_url, embeddings=options.embeddings)
    lines = run_all(cells, options.model, endpoint, console)
    write_csv(lines, options.results / "few_shot.csv")
    changed = f" Other settings: {' '.join(options.set)}." if options.set else ""
    notes = [
        f"{options.model}, {options.shots} shots, budget {options.budget}. {machine()}.{changed}",
        LEGEND,
    ]
    tables = [
        means_table(lines),
        cells_table("Test accuracy of every run", (*CELL, *SCORES), lines),
        cells_table("What every run cost", (*CELL, *COSTS), lines),
    ]
    publish(console, tables, notes, options.results / "few_shot.md")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
