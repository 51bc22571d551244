"""How the rows of a table become examples, with every check on their content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from blackbox_delta.errors import DataError
from blackbox_delta.tasks.tables import Row, Table, listed
from blackbox_delta.types import Example


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text: Column of the text, or of the first text of a pair.
        text_pair: Column of the second text; ``None`` takes ``"text_pair"`` where it is present.
        label: Column of the label.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"


def to_examples(table: Table, columns: Columns, *, labelled: bool) -> tuple[Example, ...]:
    """One example for each row, in order.

    Args:
        table: The rows.
        columns: Which columns hold what.
        labelled: Whether every row must have a label; otherwise labels are passed over.

    Raises:
        DataError: A column is missing, a text or label is empty or of a wrong type, or only
            some rows have a second text.
    """
    pair_column = columns.text_pair or "text_pair"
    pairs = columns.text_pair is not None or any(
        _present(row.get(pair_column)) for _, row in table.rows
    )
    examples = []
    for number, row in table.rows:
        where = table.where(number)
        text = _text(row, columns.text, where)
        text_pair = _text_pair(row, columns, where) if pairs else None
        label = _label(row, columns.label, where) if labelled else None
        examples.append(Example(text, text_pair, label))
    return tuple(examples)


def missing_column(where: str, column: str, available: Iterable[str]) -> DataError:
    """The error for a column that is not there, naming those that are."""
    return DataError(
        f"{where}: no column '{column}'. The columns are: {listed(available)}. "
        "Name the one that is meant"
    )


def _text(row: Row, column: str, where: str) -> str:
    if column not in row:
        raise missing_column(where, column, row)
    value = row[column]
    if not _present(value):
        raise DataError(f"{where}: the text in column '{column}' is empty")
    return sound(value, f"{where}: the text in column '{column}'")


def _text_pair(row: Row, columns: Columns, where: str) -> str:
    column = columns.text_pair or "text_pair"
    # A column that was asked for by name is checked like the text; one that was
    # merely found must be filled on all rows or on none.
    if columns.text_pair is None and not _present(row.get(column)):
        raise DataError(
            f"{where}: no second text in column '{column}', though other rows have one. "
            "Pairs need both texts on every row"
        )
    return _text(row, column, where)


def _label(row: Row, column: str, where: str) -> str:
    if column not in row:
        raise missing_column(where, column, row)
    value = row[column]
    if not _present(value):
        raise DataError(f"{where}: the label in column '{column}' is empty")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return str(value)
    return sound(value, f"{where}: the label in column '{column}'")


def _present(value: object) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def sound(value: object, what: str) -> str:
    """A value that is a text which can be written as UTF-8.

    Raises:
        DataError: It is none.
    """
    if not isinstance(value, str):
        raise DataError(f"{what} is a {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} has a broken character (half of a surrogate pair) at position {error.start}"
        ) from error
    # numpy's strings are strings too, but print differently and so would hash differently.
    return str(value)


def said_by(example: Example) -> tuple[str, str]:
    """What makes two examples the same to a reader."""
    return example.text.strip(), (example.text_pair or "").strip()
