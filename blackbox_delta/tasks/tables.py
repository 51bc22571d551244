"""Rows of data files, each with the place it came from.

Every reader ends in a :class:`Table`, whatever the format, so that each check on
the content exists once and every message can name file and line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from blackbox_delta.errors import DataError

Row: TypeAlias = Mapping[str, object]
Numbered: TypeAlias = tuple[int, Row]
#: Of many names, and of a long one, a message shows so many, and so many letters.
_MOST_NAMES, _MOST_LETTERS = 20, 60


@dataclass(frozen=True)
class Table:
    """Rows that came from one place.

    Attributes:
        name: The place as messages name it, e.g. the path of the file.
        unit: What the numbers count, e.g. ``"line"``.
        rows: Each row with its number.
    """

    name: str
    unit: str
    rows: Sequence[Numbered]

    def where(self, number: int) -> str:
        """The place of one row, for messages."""
        return f"{self.name}, {self.unit} {number}"


def read_table(path: Path, *, plain: str | None = None) -> Table:
    """Reads a JSONL, CSV or TSV file (UTF-8, a byte-order mark is accepted).

    Args:
        path: The file; its suffix says the format.
        plain: The column for the lines of a ``.txt`` file; ``None`` refuses such a file.

    Raises:
        DataError: The file is missing, empty, undecodable, malformed or of an unknown format.
    """
    name, suffix = str(path), path.suffix.lower()
    if suffix in _READERS:
        return _table(name, _READERS[suffix](_decode(path), name))
    if suffix == ".txt" and plain is not None:
        return _table(name, _plain_rows(_decode(path), plain))
    known = [*_READERS, *([".txt"] if plain is not None else [])]
    raise DataError(
        f"{path}: cannot read a file with the suffix '{path.suffix}'. Known are: {', '.join(known)}"
    )


def read_lines(text: str, name: str, plain: str) -> Table:
    """Reads JSON lines if the first line that is not blank begins with ``{``, else plain lines.

    Args:
        text: What was read.
        name: Where from, for messages.
        plain: The column for plain lines.

    Raises:
        DataError: There is nothing to read, or a line of JSON lines is malformed.
    """
    text = text.removeprefix("\ufeff")
    json_lines = text.lstrip().startswith("{")
    return _table(name, _json_rows(text, name) if json_lines else _plain_rows(text, plain))


def _table(name: str, rows: list[Numbered]) -> Table:
    if not rows:
        raise DataError(f"{name} is empty: it holds no examples")
    return Table(name, "line", rows)


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the byte-order mark; line ends before the bad
        # byte are the same from either start.
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8") from error


def _lines(text: str) -> Iterable[tuple[int, str]]:
    # Not str.splitlines: it also breaks at U+2028 and the like, which JSON allows in strings.
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return ((number, line) for number, line in lines if line)


def _json_rows(text: str, name: str) -> list[Numbered]:
    rows: list[Numbered] = []
    for number, line in _lines(text):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name}, line {number}: not valid JSON ({_reason(error)}). "
                "JSON lines hold one object a line; plain texts belong in a .txt file"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, line {number}: a JSON {type(row).__name__} where an object such as "
                '{"text": …, "label": …} should be'
            )
        rows.append((number, row))
    return rows


def _reason(error: Exception) -> str:
    # The decoder's own message counts lines too, always 1 here.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def _plain_rows(text: str, column: str) -> list[Numbered]:
    return [(number, {column: line}) for number, line in _lines(text)]


def _separated_rows(delimiter: str, text: str, name: str) -> list[Numbered]:
    # A text may be longer than the 131,072 characters that this module takes by itself.
    usual = csv.field_size_limit(max(len(text), 1))
    try:
        return _rows_within(delimiter, text, name)
    finally:
        csv.field_size_limit(usual)


def _rows_within(delimiter: str, text: str, name: str) -> list[Numbered]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Numbered] = []
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            if not header:
                header = _header(fields, f"{name}, line {start}")
            elif fields:
                _check_width(fields, header, f"{name}, line {start}")
                rows.append((start, dict(zip(header, fields, strict=True))))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {start}: {error}. A quote inside a text must be doubled and the text "
            "put in quotes; JSON lines have no such trouble"
        ) from error
    return rows


def _header(fields: Sequence[str], where: str) -> list[str]:
    repeated = sorted({field for field in fields if fields.count(field) > 1})
    if repeated:
        raise DataError(f"{where}: more than one column is called {listed(repeated)}")
    return list(fields)


def _check_width(fields: Sequence[str], header: Sequence[str], where: str) -> None:
    if len(fields) != len(header):
        raise DataError(
            f"{where}: {len(fields)} fields where the header names {len(header)} "
            f"({listed(header)}). A text that contains the separator must be in quotes"
        )


def _csv_rows(text: str, name: str) -> list[Numbered]:
    return _separated_rows(",", text, name)


def _tsv_rows(text: str, name: str) -> list[Numbered]:
    return _separated_rows("\t", text, name)


_READERS: dict[str, Callable[[str, str], list[Numbered]]] = {
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}


def is_list(values: object) -> TypeGuard[Iterable[Any]]:
    """Whether values follow one another, as in a list or one column of a table.

    Whole tables and mappings do not: what they give, one after the other, are names.
    """
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)
    return several and getattr(values, "ndim", 1) == 1


def some(names: Sequence[str]) -> str:
    """The first of many names, for messages that stay readable."""
    shown = [f"{name[:_MOST_LETTERS]}…" if len(name) > _MOST_LETTERS else name for name in names]
    more = len(shown) - _MOST_NAMES
    return ", ".join(shown[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def listed(names: Iterable[str]) -> str:
    """Names in quotes, for messages."""
    return ", ".join(f"'{name}'" for name in names) or "(none)"
