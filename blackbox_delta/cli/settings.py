"""The options that fill the settings: one for each, and a file that may say the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blackbox_delta._settings_file import read_settings
from blackbox_delta.cli.group import Group, make_option
from blackbox_delta.errors import ConfigError
from blackbox_delta.settings import PARTS, Settings
from blackbox_delta.tasks import parse_words

_TASK, _RECIPE = "The task", "The recipe"
_SEARCH, _DELTA, _SOFT = "The search", "The delta", "The soft prompt"
_SETTINGS = {
    "recipe": (
        _RECIPE,
        "auto pools several views of every example; search tunes one delta.",
    ),
    "shots": (_TASK, "k: examples per class for training; search needs as many more."),
    "seed": (_TASK, "Determines the examples drawn, and all else that is drawn."),
    "budget": (
        _RECIPE,
        (
            "What each seed may spend, but for its test: 300, '9600 queries', '2M tokens', "
            "'10 min', '$2.50'."
        ),
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
        f"Parts that auto leaves out: {', '.join(PARTS)}; commas between them.",
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


def _settings_option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    # What a choice may be is said by Settings, in one sentence like all other mistakes.
    kind = _AS_TEXT.get(name, field.annotation)
    called = (_CALLED[name],) if name in _CALLED else ()
    default = [field.default] if name in _REPEATED else field.default
    return make_option(name, default, kind, *_SETTINGS[name], called)


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
        own["delta_settings"] = {**_left(filed.get("delta_settings") or {}, told), **told}
    return Settings.of({**filed, **own})


def _left(filed: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of a delta, but for what the options say otherwise.

    What they say to all kinds goes before what the file says to one.
    """
    to_all = {name.removeprefix("delta.") for name in told}
    return {name: value for name, value in filed.items() if name.rpartition(".")[2] not in to_all}


def _set(text: str) -> tuple[str, str]:
    """What one ``--set`` says."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ConfigError(f"--set {text!r} says nothing; write it as in --set delta.rank=4")
    return name, value


#: What fills Settings.
SETTINGS = Group(
    [
        *(_settings_option(name) for name in Settings.model_fields),
        make_option(
            _FILE,
            None,
            Path | None,
            _RECIPE,
            "A TOML file that says any of these, named as in the library; options win over it.",
            ("--settings",),
        ),
    ],
    _settings,
)
