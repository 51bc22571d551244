"""What a group of the command line's options is: they are made from a type, and make one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer


class Group(NamedTuple):
    """Options, and what is made of their values and of the names of those that were written."""

    options: list[inspect.Parameter]
    build: Callable[[Mapping[str, Any], frozenset[str]], Any]


def make_option(
    name: str, default: Any, kind: Any, panel: str, text: str, called: tuple[str, ...] = ()
) -> inspect.Parameter:
    """One option, as a parameter of a command.

    Args:
        name: Of the parameter, and of the option unless that is called otherwise.
        default: Where it is not written.
        kind: The type of its value.
        panel: The heading that it stands under in the help.
        text: What the help says.
        called: Other names for the option.
    """
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*called, help=text, rich_help_panel=panel)],
    )
