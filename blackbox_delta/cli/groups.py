"""Parameters of a command that stand for a group of options, by their types.

A command names what it wants by type, say ``settings: Settings``; :func:`with_option_groups`
gives it one option per field. So every default stands in one place, the type itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import typer

from blackbox_delta.cli.group import Group, make_option
from blackbox_delta.cli.server import CALLER, KEY, SERVER, Caller, Key, Server
from blackbox_delta.cli.settings import SETTINGS
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns

_COLUMNS = {
    "text": "Column of the text.",
    "text_pair": "Column of the second text of a pair; text_pair is taken where it is there.",
    "label": "Column of the label.",
}
_COLUMN_OPTIONS = {"text": "text_column", "text_pair": "pair_column", "label": "label_column"}
_PLACE = {
    "device": "cpu or cuda; by default cuda where there is one.",
    "dtype": "fp32, bf16 or fp16; by default fp32 on a CPU, bf16 on a GPU, and for a saved run "
    "what it was tuned in.",
}


class TextColumns(Columns):
    """Those of texts whose labels, if they have any, are not read."""


@dataclass(frozen=True)
class Place:
    """Where and how precisely the model runs; ``None`` lets the backend choose."""

    device: str | None = None
    dtype: str | None = None


def _text_option(group: type, name: str, option: str, panel: str, text: str) -> inspect.Parameter:
    """An option for a field that holds a text or nothing."""
    default = next(field.default for field in fields(group) if field.name == name)
    kind = str | None if default is None else str
    return make_option(option, default, kind, panel, text)


def _columns(kind: type[Columns], names: Iterable[str]) -> Group:
    """The group of options that name these columns."""

    def build(given: Mapping[str, Any], _written: frozenset[str]) -> Columns:
        return kind(**{name: given[_COLUMN_OPTIONS[name]] for name in names})

    options = [
        _text_option(Columns, name, _COLUMN_OPTIONS[name], "The data's columns", _COLUMNS[name])
        for name in names
    ]
    return Group(options, build)


_GROUPS: dict[type, Group] = {
    Server: SERVER,
    Caller: CALLER,
    Key: KEY,
    Settings: SETTINGS,
    Columns: _columns(Columns, _COLUMNS),
    TextColumns: _columns(TextColumns, ("text", "text_pair")),
    Place: Group(
        [_text_option(Place, name, name, "The machine", text) for name, text in _PLACE.items()],
        lambda given, _written: Place(**given),
    ),
}
#: Tells which options were written; typer fills it in.
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces parameters of a type in ``_GROUPS``, such as Settings, by one option per field.

    Raises:
        ConfigError: At the call, if a value makes no sense.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Group] = {}
    options: list[inspect.Parameter] = [_CONTEXT]
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and kind in _GROUPS:
            groups[parameter.name] = _GROUPS[kind]
            options += _GROUPS[kind].options
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def grouped(**values: Any) -> None:
        written = _written(values.pop(_CONTEXT.name), values)
        for name, group in groups.items():
            given = {option.name: values.pop(option.name) for option in group.options}
            values[name] = group.build(given, written)
        command(**values)

    grouped.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return grouped


def _written(context: typer.Context, names: Iterable[str]) -> frozenset[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(n for n, source in sources.items() if source and source.name == "COMMANDLINE")
