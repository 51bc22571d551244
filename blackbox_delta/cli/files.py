"""What the commands read and write: labelled examples, texts, predictions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

import numpy as np
import typer

from blackbox_delta.artifact import scratch_path
from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.runs import is_part_of_run, side_files
from blackbox_delta.tasks import Columns, load_task, read_examples
from blackbox_delta.tasks.data import is_folder
from blackbox_delta.tasks.hub import PREFIX as HUB
from blackbox_delta.types import Example, Json, Vector

if TYPE_CHECKING:
    from blackbox_delta.tuned_model import Answers


def labelled(data: str, columns: Columns) -> tuple[Example, ...]:
    """The test part of a data set, or all of a single file.

    Raises:
        DataError: There is none, or it cannot be used.
    """
    if not data.startswith(HUB) and not is_folder(Path(data)):
        return tuple(read_examples(data, columns))
    test = load_task(data, columns).test
    if not test:
        raise DataError(f"{data} has no test part; name a file to score all of it")
    return test


def stdin() -> TextIO:
    """Texts from stdin; a person at the keyboard is told what to do."""
    stream: TextIO = typer.get_text_stream("stdin", encoding="utf-8")
    if stream.isatty():
        typer.echo("Write one text a line; end with Ctrl-D.", err=True)
    return stream


def check_output(
    output: Path | None, read: Mapping[str, Path | None], *, keep: bool = False
) -> None:
    """Makes sure that writing a file destroys nothing that is still needed.

    Args:
        output: The file; ``None`` for stdout.
        read: What the command reads, by what messages call it; ``None`` for what it does not read.
        keep: As it will be given to :func:`written`.

    Raises:
        ConfigError: The output is one of these, or part of a run folder, or what is to be kept
            after a failure would take the place of what an earlier one left.
    """
    if output is None or _is_special(output):
        return
    for what, path in read.items():
        if path is None:
            continue
        if _is_same(output, path):
            raise ConfigError(f"{output} is {what} itself; name another file to write")
        if any(_is_same(output, beside) for beside in side_files(path)):
            raise ConfigError(f"{output} belongs to {what}; name another file to write")
    if is_part_of_run(output):
        raise ConfigError(
            f"{output} is part of a run, which would be destroyed; name another file to write"
        )
    if keep:
        _check_left(_behind_links(output))


def _check_left(target: Path) -> None:
    """Makes sure that an earlier command left nothing that this one could replace."""
    partial, scratch = partial_path(target), scratch_path(target)
    # Names that are too long are not there, and a link that leads nowhere is.
    if os.path.lexists(partial):
        left, when = partial, "an earlier command failed, and would be lost if this one fails too"
    elif _holds_something(scratch):
        left, when = scratch, "another command was killed, or it is still at work on that"
    else:
        return
    raise ConfigError(
        f"{left} is there already: it holds what was answered before {when}; rename or remove it, "
        "or add --cache FILE, which keeps what is answered"
    )


def _holds_something(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0
    return False


def partial_path(output: Path) -> Path:
    """Where :func:`written` leaves what was written before a failure."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def written(output: Path | None, *, keep: bool = False) -> Iterator[IO[str]]:
    """Replaces a file once all of it is written; before, it is left as it is.

    Meant to be opened before any query is spent.

    Args:
        output: The file; ``None`` for stdout, which gets everything at once.
        keep: Leave what was written before a failure in :func:`partial_path`, and say so on stderr;
            :func:`check_output` makes sure that nothing is there.

    Raises:
        ConfigError: The file cannot be written.
    """
    if output is None:
        yield typer.get_text_stream("stdout", encoding="utf-8")
        return
    target = output if _is_special(output) else _behind_links(output)
    scratch = target if target is output else scratch_path(target)
    try:
        with scratch.open("w", encoding="utf-8") as stream:
            yield stream
        if scratch is not target:
            _replace(scratch, target)
    except OSError as error:
        _leave(scratch, target, keep)
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    except BaseException:
        _leave(scratch, target, keep)
        raise


def _is_special(path: Path) -> bool:
    """Whether it is there and no ordinary file: a pipe or a device, of which nothing is lost."""
    # Unlike Path's own, these take a name that is too long for one that is not there.
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113


def _behind_links(output: Path) -> Path:
    """What is replaced; a link itself stays."""
    return Path(os.path.realpath(output))


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    # One of them is not there yet.
    return os.path.realpath(one) == os.path.realpath(other)


def _replace(scratch: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, scratch)
    scratch.replace(target)


def _leave(scratch: Path, target: Path, keep: bool) -> None:
    """Tidies up after a failure."""
    if scratch is target:
        return
    with suppress(OSError):
        if keep and scratch.stat().st_size:
            partial = partial_path(target)
            # One that another command left meanwhile is not replaced either.
            left = scratch if os.path.lexists(partial) else scratch.replace(partial)
            typer.echo(f"What was answered is in {left}.", err=True)
        else:
            scratch.unlink()


def lines_of(answers: Answers, labels: Sequence[str]) -> Iterator[Json]:
    """Lines of predictions: the texts, the label and the probabilities by label.

    Where the model named no label, the line says so: ``"unanswered": true``.
    """
    for example, row, unanswered in zip(
        answers.examples, np.exp(answers.log_proba), answers.unanswered, strict=True
    ):
        yield _line(example, labels, row) | ({"unanswered": True} if unanswered else {})


def _line(example: Example, labels: Sequence[str], probabilities: Vector) -> Json:
    pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
    shares = [float(share) for share in probabilities]
    return {
        "text": example.text,
        **pair,
        "label": labels[int(probabilities.argmax())],
        "probabilities": dict(zip(labels, shares, strict=True)),
    }
