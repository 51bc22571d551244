"""Where labelled examples come from: folders, files, the hub, or Python lists."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

from blackbox_delta.errors import DataError
from blackbox_delta.tasks.examples import Columns, said_by, to_examples
from blackbox_delta.tasks.hub import PREFIX, read_hub
from blackbox_delta.tasks.tables import Table, is_list, read_lines, read_table, some
from blackbox_delta.types import Example

__all__ = [
    "Columns",
    "Lists",
    "TaskData",
    "load_task",
    "read_examples",
    "read_texts",
    "task_from_lists",
]

logger = logging.getLogger(__name__)

Lists: TypeAlias = (
    tuple[Iterable[str], Iterable[object]] | tuple[Iterable[str], Iterable[object], Iterable[str]]
)
"""Texts and labels, or texts, labels and second texts."""


@dataclass(frozen=True)
class TaskData:
    """A labelled set; every example has a label, and its label is one of ``labels``.

    Attributes:
        name: What it is called in reports.
        labels: The c labels of the training pool, sorted.
        train: The pool that few-shot splits are drawn from.
        dev: A development part of its own, or ``None``.
        test: For the final score only; may be empty.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...] | None
    test: tuple[Example, ...]

    @property
    def pairs(self) -> bool:
        """Whether the examples are pairs of texts."""
        return self.train[0].text_pair is not None

    def digest(self) -> str:
        """SHA-256 over the content (not the name), in hexadecimal."""
        parts = {"train": self.train, "dev": self.dev, "test": self.test}
        content = {
            part: None if examples is None else [_fields(example) for example in examples]
            for part, examples in parts.items()
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_task(source: str | Path | TaskData, columns: Columns | None = None) -> TaskData:
    """Reads a labelled set.

    Args:
        source: One of

            - a folder with ``train.jsonl`` and, optionally, ``dev.jsonl`` and ``test.jsonl``, or
              with ``.csv`` or ``.tsv`` files of these names;
            - a ``.jsonl``, ``.csv`` or ``.tsv`` file, all of it training pool;
            - ``hub:NAME``, ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/CONFIGURATION``;
            - a :class:`TaskData`, which is given back.
        columns: Which columns hold what; by default ``text``, ``text_pair`` and ``label``.

    Raises:
        DataError: The data cannot be used; the message names file and line.
        MissingExtraError: A data set of the hub was named and ``datasets`` is not installed.
    """
    columns = _columns(columns)
    if isinstance(source, TaskData):
        return source
    if not isinstance(source, str | Path):
        raise DataError(
            f"the data is a {type(source).__name__}; give a folder, a file, {PREFIX}NAME, or what "
            "task_from_lists(texts, labels) makes of lists and of a table's columns"
        )
    if isinstance(source, str) and source.startswith(PREFIX):
        return _task(source.removeprefix(PREFIX), read_hub(source, columns), columns)
    path = Path(source)
    if is_folder(path):
        # As it is called here, wherever a link leads to.
        return _task(Path(os.path.abspath(path)).name, _folder(path), columns)  # noqa: PTH100
    return _task(path.stem, {"train": read_table(path)}, columns)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a file.

    Raises:
        DataError: There is neither, or nobody may look.
    """
    try:
        folder = path.is_dir()
        if folder or path.exists():
            return folder
    except OSError as error:
        raise DataError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from error
    raise DataError(
        f"no such file or folder: {path}. A data set of the hub is written {PREFIX}NAME"
    )


def task_from_lists(
    texts: Iterable[str],
    labels: Iterable[object],
    text_pairs: Iterable[str] | None = None,
    *,
    dev: Lists | None = None,
    test: Lists | None = None,
    name: str = "lists",
) -> TaskData:
    """A labelled set from Python lists (or arrays).

    Args:
        texts: n texts, the training pool.
        labels: n labels: strings, or whole numbers and truth values, which become strings.
        text_pairs: n second texts, for pairs.
        dev: A development part as (texts, labels) or (texts, labels, second texts).
        test: A test part, likewise.
        name: What it is called in reports.

    Raises:
        DataError: The lists differ in length or their content cannot be used; positions in
            the message count from 0.
    """
    train: Lists = (texts, labels) if text_pairs is None else (texts, labels, text_pairs)
    parts = {"train": train, "dev": dev, "test": test}
    tables = {
        part: _list_table(lists, f"{name} ({part})")
        for part, lists in parts.items()
        if lists is not None
    }
    return _task(name, tables, Columns())


def read_texts(source: str | Path | TextIO, columns: Columns | None = None) -> list[Example]:
    """Reads texts to be classified; labels are passed over.

    Args:
        source: A ``.jsonl``, ``.csv``, ``.tsv`` or ``.txt`` file, or an open text stream.
            A ``.txt`` file holds one text a line, and blank lines are passed over. A stream holds
            JSON lines if its first line begins with ``{`` and plain lines otherwise.
        columns: Which columns hold what; by default ``text``, ``text_pair`` and ``label``.

    Raises:
        DataError: The input cannot be used; the message names file and line.
    """
    columns = _columns(columns)
    if isinstance(source, (str, Path)):
        table = read_table(Path(source), plain=columns.text)
    elif callable(getattr(source, "read", None)):
        table = _stream_table(source, plain=columns.text)
    else:
        raise DataError(f"a {type(source).__name__} is neither a file nor a text stream")
    return list(to_examples(table, columns, labelled=False))


def read_examples(path: str | Path, columns: Columns | None = None) -> list[Example]:
    """Reads a file of labelled examples, all of which are one part.

    Args:
        path: A ``.jsonl``, ``.csv`` or ``.tsv`` file.
        columns: Which columns hold what; by default ``text``, ``text_pair`` and ``label``.

    Raises:
        DataError: The file cannot be used; the message names it and the line.
    """
    return list(to_examples(read_table(Path(path)), _columns(columns), labelled=True))


# ------------------------------------------------------------------------- helpers


def _columns(columns: Columns | None) -> Columns:
    if columns is not None and not isinstance(columns, Columns):
        raise DataError(f"columns: a {type(columns).__name__}; write Columns(text='…', label='…')")
    return columns or Columns()


def _fields(example: Example) -> list[str | None]:
    return [example.text, example.text_pair, example.label]


def _folder(path: Path) -> dict[str, Table]:
    try:
        there = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    files = {
        part: [f"{part}{end}" for end in (".jsonl", ".csv", ".tsv") if f"{part}{end}" in there]
        for part in ("train", "dev", "test")
    }
    if not files["train"]:
        raise DataError(
            f"{path} has no train.jsonl, train.csv or train.tsv; it holds: "
            f"{', '.join(there) or 'nothing'}. A single file can be named itself"
        )
    for several in files.values():
        if len(several) > 1:
            raise DataError(f"{path} holds {' and '.join(several)}; keep one of them there")
    return {part: read_table(path / names[0]) for part, names in files.items() if names}


def _list_table(lists: Lists, name: str) -> Table:
    if not isinstance(lists, tuple | list) or len(lists) not in (2, 3):
        raise DataError(f"{name}: give (texts, labels), or (texts, labels, second texts)")
    for column in lists:
        if isinstance(column, str):
            raise DataError(f"{name}: a single string where a list was expected")
        if not is_list(column):
            kind = type(column).__name__
            raise DataError(f"{name}: a {kind} where a list, or one column, was expected")
    filled = dict(zip(("text", "label", "text_pair"), map(list, lists), strict=False))
    lengths = {column: len(values) for column, values in filled.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {column}" for column, count in lengths.items())
        raise DataError(f"{name}: the lists differ in length ({counts})")
    if not lengths["text"]:
        raise DataError(f"{name}: the lists are empty")
    rows = [dict(zip(filled, values, strict=True)) for values in zip(*filled.values(), strict=True)]
    return Table(name, "position", list(enumerate(rows)))


def _stream_table(stream: TextIO, plain: str) -> Table:
    name = str(getattr(stream, "name", "input"))
    try:
        text = stream.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: the input is not UTF-8") from error
    if not isinstance(text, str):
        raise DataError(f"{name}: the stream is of bytes; open it as text")
    return read_lines(text, name, plain)


def _task(name: str, tables: dict[str, Table], columns: Columns) -> TaskData:
    parts = {part: to_examples(table, columns, labelled=True) for part, table in tables.items()}
    labels = tuple(sorted({example.label for example in parts["train"] if example.label}))
    if len(labels) < 2:
        raise DataError(
            f"{tables['train'].name}: all examples have the label '{labels[0]}'; "
            "a classifier needs at least two classes"
        )
    for part, examples in parts.items():
        _check_part(tables[part], examples, labels, pairs=parts["train"][0].text_pair is not None)
        _warn_of_two_labels(tables[part].name, examples)
    return TaskData(name, labels, parts["train"], parts.get("dev"), parts.get("test", ()))


def _warn_of_two_labels(name: str, examples: Sequence[Example]) -> None:
    """Says where the same words have different labels, which nothing can tell apart."""
    labels: dict[tuple[str, str], set[str]] = {}
    for example in examples:
        labels.setdefault(said_by(example), set()).add(example.label or "")
    twice = [(text, sorted(said)) for (text, _), said in labels.items() if len(said) > 1]
    if twice:
        text, said = twice[0]
        logger.warning(
            "%s: %d %s more than one label, such as %r (%s)",
            name,
            len(twice),
            "text has" if len(twice) == 1 else "texts have",
            text[:60],
            ", ".join(said),
        )


def _check_part(
    table: Table, examples: Sequence[Example], labels: Sequence[str], *, pairs: bool
) -> None:
    """Every part must have the classes, and the number of texts, of the training part."""
    if (examples[0].text_pair is not None) is not pairs:
        raise DataError(
            f"{table.name}: {'single texts' if pairs else 'pairs of texts'}, though the training "
            f"examples are {'pairs' if pairs else 'single texts'}"
        )
    known = frozenset(labels)
    for (number, _), example in zip(table.rows, examples, strict=True):
        if example.label not in known:
            raise DataError(
                f"{table.where(number)}: the label '{example.label}' does not occur in the "
                f"training examples, whose labels are: {some(labels)}"
            )
