"""What the commands read and write: labelled examples, texts, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

import typer

from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.tasks import Columns, load_task, read_texts
from blackbox_delta.types import Example, Json, Vector


def labelled(data: str, columns: Columns) -> tuple[Example, ...]:
    """The test part of a data set, or all of a single file.

    Raises:
        DataError: There is none, or it cannot be used.
    """
    if Path(data).is_file():
        return tuple(read_texts(data, columns))
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


@contextmanager
def opened_for_writing(output: Path | None) -> Iterator[IO[str]]:
    """The file, or stdout for ``None``; meant to be opened before any query is spent.

    Raises:
        ConfigError: The file cannot be written.
    """
    if output is None:
        yield typer.get_text_stream("stdout", encoding="utf-8")
        return
    try:
        with output.open("w", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error


def answer(example: Example, labels: Sequence[str], probabilities: Vector) -> Json:
    """One line of predictions: the texts, the label and (c,) probabilities by label."""
    pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
    shares = [float(share) for share in probabilities]
    return {
        "text": example.text,
        **pair,
        "label": labels[int(probabilities.argmax())],
        "probabilities": dict(zip(labels, shares, strict=True)),
    }
