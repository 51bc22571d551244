"""How fast is a generation? A naive loop, this package and the bare model, side by side.

In one run, on the shapes of SST-2 and AG News, a generation of λ candidates × n examples is
evaluated (a) by a loop as a user of PEFT and pycma would write it, (b) by this package with the
soft prompt in front of the text, (c) with it behind the text, (d) by a plain batched forward of
exactly the tokens that (c) must compute.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import DATA, MODEL, RESULTS, SECONDS, Table, machine, publish
from rich.console import Console
from workloads import SHAPES, Shape, Workload, make_workload

from blackbox_delta.errors import BlackBoxDeltaError

if TYPE_CHECKING:
    from contenders import Timing
    from race import Race

    Times = dict[str, list[Timing]]

#: The generation after which memory must not grow any more.
SETTLED = 3
#: What the user of this script must have installed.
NEEDED = ("torch", "transformers", "peft", "psutil")
WAYS = {
    "a": "(a) PEFT and pycma",
    "b": "(b) slot in front",
    "c cold": "(c) slot behind, first",
    "c": "(c) slot behind, later",
    "d": "(d) pure forward of (c)",
}


def median_seconds(timings: list[Timing]) -> float:
    return float(np.median([timing.seconds for timing in timings]))


def speed_ratio(times: Times, fast: str, slow: str) -> float:
    """How many times as fast, the median over the repetitions."""
    pairs = zip(times[fast], times[slow], strict=True)
    return float(np.median([slower.seconds / faster.seconds for faster, slower in pairs]))


def ratio_row(shape: Shape, times: Times) -> list[str]:
    over_naive, of_pure = speed_ratio(times, "c", "a"), speed_ratio(times, "c", "d")
    front = speed_ratio(times, "b", "a")
    met = over_naive >= shape.aim and of_pure >= 0.9 and front > 1
    return [
        shape.title,
        f"{over_naive:.1f} (≥ {shape.aim:.0f})",
        f"{of_pure:.2f} (≥ 0.9)",
        f"{front:.2f} (> 1)",
        f"{speed_ratio(times, 'c cold', 'a'):.1f}",
        "yes" if met else "no",
    ]


def time_rows(times: Times, candidates: int) -> Iterator[list[str]]:
    for way, taken in times.items():
        seconds, every = median_seconds(taken), [timing.seconds for timing in taken]
        yield [
            WAYS[way],
            f"{seconds:.2f}",
            f"{min(every):.2f}–{max(every):.2f}",
            f"{candidates / seconds:.2f}",
            f"{taken[0].tokens:,}",
            f"{np.median([timing.tokens / timing.seconds for timing in taken]):,.0f}",
            f"{1000 * np.median([timing.search_seconds for timing in taken]):.0f}",
        ]


def memory_row(shape: Shape, held: dict[str, float]) -> list[str]:
    return [shape.title, *(f"{value:,.0f}" for value in held.values())]


def tables_of(
    workloads: dict[str, Workload], times: dict[str, Times], memory: dict[str, dict[str, float]]
) -> Iterator[Table]:
    yield Table(
        "Times as fast (aim)",
        ["shape", "c / a", "c / d", "b / a", "first c / a", "aims met"],
        [ratio_row(SHAPES[name], taken) for name, taken in times.items()],
    )
    for name, work in workloads.items():
        yield Table(
            f"{SHAPES[name].title}: {work.candidates} candidates × {len(work.texts)} examples",
            ["", "seconds", "range", "candidates/s", "tokens", "tokens/s", "ask + tell, ms"],
            list(time_rows(times[name], work.candidates)),
        )
    yield Table(
        "Memory of this package alone, MB, the fp32 model included",
        ["after generation", *next(iter(memory.values()))],
        [memory_row(SHAPES[name], held) for name, held in memory.items()],
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=MODEL, help="a causal model (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with sst2/ and agnews/; else made-up texts"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument(
        "--candidates", type=int, default=20, help="λ, at least 4 (default: %(default)s)"
    )
    parser.add_argument("--examples", type=int, help="n, for a quick look; by default the shape's")
    parser.add_argument(
        "--naive-candidates",
        type=int,
        default=5,
        help="candidates that (a) evaluates, scaled to λ (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-generations",
        type=int,
        default=10,
        help=f"generations to watch memory over, more than {SETTLED} (default: %(default)s)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables are put")
    options = parser.parse_args()
    if options.candidates < 4 or options.memory_generations <= SETTLED:
        parser.error(f"--candidates is at least 4 and --memory-generations more than {SETTLED}")
    if min(options.repeats, options.naive_candidates, options.examples or 1) < 1:
        parser.error("--repeats, --naive-candidates and --examples are at least 1")
    return options


def main() -> None:
    """Runs the benchmark."""
    options, console = parse_arguments(), Console()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SystemExit(f"error: install {', '.join(missing)}: pip install '.[local,compare]'")
    workloads: dict[str, Workload] = {}
    notes = opening_notes(options)
    for name in options.shapes:
        workloads[name], origin = make_workload(
            name, options.data, options.candidates, options.examples
        )
        notes.append(f"{SHAPES[name].title}: {origin} texts.")
    races = open_races(options.model, workloads)
    # Before PEFT and the naive loop's logits take memory of their own.
    memory: dict[str, dict[str, float]] = {}
    for name, race in races.items():
        console.print(f"{name}: memory over {options.memory_generations} generations")
        memory[name] = race.memory((SETTLED, options.memory_generations))
    times: dict[str, Times] = {}
    for name, race in races.items():
        console.print(f"{name}: taking turns")
        naive = race.naive(options.naive_candidates)
        notes.append(f"{SHAPES[name].title}: {race.check(naive)}.")
        times[name], chunk = race.run(naive, options.repeats, console.print)
        notes.append(f"{SHAPES[name].title}: (d) in chunks of {chunk} rows.")
    tables = list(tables_of(workloads, times, memory))
    publish(console, tables, notes, options.results / "local_throughput.md")
    if not options.examples:
        write_seconds(options.results / SECONDS, times, options.candidates)


def opening_notes(options: argparse.Namespace) -> list[str]:
    import torch

    measured = min(options.naive_candidates, options.candidates)
    software = f"torch {torch.__version__}, {options.model} in fp32"
    return [
        f"{machine()}, {torch.get_num_threads()} threads, {software}, {options.repeats} turns.",
        f"(a) evaluates {measured} of {options.candidates} candidates; their time is scaled.",
    ]


def open_races(model: str, workloads: dict[str, Workload]) -> dict[str, Race]:
    """One race a shape, on one copy of the model."""
    import torch
    from race import Race

    from blackbox_delta.backends.local import loading

    loaded = loading.load(model, torch.float32, torch.device("cpu"))
    return {name: Race(loaded, workload) for name, workload in workloads.items()}


def write_seconds(path: Path, times: dict[str, Times], candidates: int) -> None:
    """Median seconds per candidate, which ``optimizers.py`` compares its own with."""
    seconds = {
        name: {way: median_seconds(taken) / candidates for way, taken in ways.items()}
        for name, ways in times.items()
    }
    path.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
