"""Data sets from the Hugging Face hub, through the ``datasets`` package."""

from __future__ import annotations

from typing import Any

from blackbox_delta.errors import DataError, MissingExtraError
from blackbox_delta.tasks.examples import Columns, missing_column
from blackbox_delta.tasks.tables import Row, Table

PREFIX = "hub:"
_UNLABELLED = object()


def read_hub(source: str, columns: Columns) -> dict[str, Table]:
    """The labelled parts of a data set: ``train`` and, where there are such, ``dev`` and ``test``.

    ``ClassLabel`` numbers become their names. Rows without a label (-1 in a ``ClassLabel``
    column, the hub's convention) are left out. Where the test part has no labels at all, the
    validation part is the test part and there is no development part.

    Args:
        source: ``hub:NAME``, ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/CONFIGURATION``.
        columns: Which columns hold what.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        DataError: The data set cannot be loaded, or lacks a training part or a column.
    """
    splits = _load(source)
    if "train" not in splits:
        raise DataError(f"{source} has no split 'train'; its splits are: {', '.join(splits)}")
    tables = {
        part: _table(splits[split], f"{source}, split {split}", columns)
        for part, split in (("train", "train"), ("dev", "validation"), ("test", "test"))
        if split in splits
    }
    if not tables["train"].rows:
        raise DataError(f"{source}: no row of the split 'train' has a label")
    filled = {part: table for part, table in tables.items() if table.rows}
    if "test" not in filled and "dev" in filled:
        filled["test"] = filled.pop("dev")
    return filled


def _load(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hub", f"Reading {source}") from error
    name, configuration = _parse(source)
    try:
        return datasets.load_dataset(name, configuration)
    # The library raises errors of many unrelated kinds: unknown names, missing
    # configurations, no network, broken archives.
    except Exception as error:
        raise DataError(f"{source} cannot be loaded: {error}") from error


def _parse(source: str) -> tuple[str, str | None]:
    parts = source.removeprefix(PREFIX).split("/")
    if len(parts) > 3 or not all(parts):
        raise DataError(
            f"'{source}' is not a data set's name: write hub:NAME, hub:OWNER/NAME or "
            "hub:OWNER/NAME/CONFIGURATION"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def _table(split: Any, name: str, columns: Columns) -> Table:
    available = list(split.column_names)
    wanted = [columns.text, columns.label]
    if columns.text_pair is not None:
        wanted.append(columns.text_pair)
    elif "text_pair" in available:
        wanted.append("text_pair")
    for column in wanted:
        if column not in available:
            raise missing_column(name, column, available)
    # Only these columns are decoded: a data set may hold images or sound beside its texts.
    content = split.select_columns(wanted).to_dict()
    feature = split.features[columns.label]
    content[columns.label] = _names(content[columns.label], getattr(feature, "names", None))
    rows: list[tuple[int, Row]] = [
        (number, dict(zip(content, values, strict=True)))
        for number, values in enumerate(zip(*content.values(), strict=True))
    ]
    return Table(name, "row", [row for row in rows if row[1][columns.label] is not _UNLABELLED])


def _names(labels: list[Any], names: list[str] | None) -> list[Any]:
    """Label names; ``_UNLABELLED`` where there is none."""
    if names is not None:
        return [_UNLABELLED if label in (None, -1) else names[label] for label in labels]
    # In a plain column of numbers -1 may be a class of its own, unless nothing else occurs.
    if all(label == -1 for label in labels):
        return [_UNLABELLED] * len(labels)
    return labels
