"""From what is asked for to a delta that fits the model and the template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blackbox_delta.deltas import (
    MODULE_DELTAS,
    TEXT,
    Composition,
    DeepPrompt,
    Prefix,
    SoftPrompt,
)
from blackbox_delta.deltas.soft_prompt import one_each
from blackbox_delta.deltas.targets import select
from blackbox_delta.errors import ConfigError, UnsupportedError
from blackbox_delta.geometry import Geometry
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Template
from blackbox_delta.types import IN_SLOTS, Backend, Delta, EmbeddingTable

#: Length of soft slots and prefixes for which nothing else says it.
SOFT_TOKENS = 10
#: Words that a prefix starts from where the template leaves it open.
PREFIX_WORDS = "It was"


def make_delta(
    backend: Backend, template: Template, settings: Settings, init: str | None
) -> Delta | None:
    """The delta for one template and one start; ``None`` where there is nothing to tune.

    Raises:
        UnsupportedError: The backend does not take it.
        ConfigError: A setting makes no sense.
    """
    kinds = settings.delta_kinds
    filling = [kind for kind in kinds if kind in IN_SLOTS]
    if len(filling) > 1:
        raise ConfigError(f"{' and '.join(filling)} fill the same slots; tune one of them")
    if template.slots and not filling:
        raise ConfigError(
            f"the template has a {{soft}} slot, which {settings.delta} does not fill; leave "
            f"{{soft}} out, or add it: --delta {SoftPrompt.kind}+{settings.delta}"
        )
    if kinds == (SoftPrompt.kind,) and not template.slots:
        return None  # only the output side is tuned
    if filling and not template.slots:
        raise ConfigError(
            f"the template has no {{soft}} slot for the {settings.delta}; write {{soft}} where it "
            "is to stand, e.g. '{text}{soft} It was {label}'"
        )
    for kind in kinds:
        _check_taken(backend, kind)
    deltas = [_MAKERS[kind](backend, template, settings, init) for kind in kinds]
    return deltas[0] if len(deltas) == 1 else Composition(deltas)


def _check_taken(backend: Backend, kind: str) -> None:
    taken = backend.capabilities.deltas
    if kind in taken:
        return
    if kind == SoftPrompt.kind:
        raise UnsupportedError(
            f"{backend.name} takes no soft prompts; use a template without {{soft}}, or none, so "
            "that only the output side is tuned"
        )
    raise UnsupportedError(
        f"{backend.name} takes no {kind}; it takes {', '.join(sorted(taken)) or 'text alone'}"
    )


def _soft_prompt(
    backend: Backend, template: Template, settings: Settings, init: str | None
) -> SoftPrompt:
    slots = {slot.name: slot.length or settings.soft_tokens for slot in template.slots}
    tokens, context = sum(length or 1 for length in slots.values()), backend.capabilities.max_length
    if context is not None and tokens >= context:
        raise ConfigError(
            f"a soft prompt of {tokens} tokens leaves no room in the {context} tokens that "
            f"{backend.name} reads"
        )
    return SoftPrompt.build(
        slots,
        _table(backend),
        tokens=SOFT_TOKENS,
        init=init,
        rng=np.random.Generator(np.random.PCG64([settings.seed, 1])),
    )


def _deep_prompt(
    backend: Backend, template: Template, settings: Settings, init: str | None
) -> Delta:
    return DeepPrompt.build(_soft_prompt(backend, template, settings, init), _geometry(backend))


def _prefix(backend: Backend, template: Template, settings: Settings, init: str | None) -> Delta:
    told = settings.told(Prefix.kind)
    first, *_ = one_each(init, max(1, len(template.slots)))
    words = first.removeprefix(TEXT) if first and first.startswith(TEXT) else PREFIX_WORDS
    ids = _table(backend).tokenize(words) or _table(backend).tokenize(PREFIX_WORDS)
    count = _whole("tokens", told.get("tokens", SOFT_TOKENS))
    layers = told.get("layers")
    chosen = None if layers is None else [_whole("layers", each) for each in str(layers).split(",")]
    return Prefix.build(_geometry(backend), ids, count, chosen)


def _at_modules(kind: str) -> Callable[[Backend, Template, Settings, str | None], Delta]:
    def make(backend: Backend, _template: Template, settings: Settings, _init: str | None) -> Delta:
        made = MODULE_DELTAS[kind]
        told = settings.told(kind)
        geometry = _geometry(backend)
        pattern = told.pop("targets", made.targets)
        if not pattern:
            raise ConfigError("delta.targets names no modules; leave it out for the delta's own")
        if isinstance(pattern, int):
            raise ConfigError(f"delta.targets is a pattern of modules' names, not {pattern}")
        modules = select(geometry, pattern, settings.seed, matrices=made.needs_matrices)
        own = {name: _whole(name, value) for name, value in told.items()}
        if "seed" in made.defaults:
            own["seed"] = settings.seed
        return made.build(modules, geometry, **own)

    return make


_MAKERS: dict[str, Callable[[Backend, Template, Settings, str | None], Delta]] = {
    SoftPrompt.kind: _soft_prompt,
    DeepPrompt.kind: _deep_prompt,
    Prefix.kind: _prefix,
    **{kind: _at_modules(kind) for kind in MODULE_DELTAS},
}


def _whole(name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"delta.{name} is a whole number, not {value!r}") from None


def _table(backend: Backend) -> EmbeddingTable:
    table = backend.embedding_table
    if table is None:
        raise UnsupportedError(f"the input embeddings of {backend.name} cannot be read")
    return table


def _geometry(backend: Backend) -> Geometry:
    geometry = backend.geometry
    if geometry is None:
        raise UnsupportedError(f"nothing inside {backend.name} can be reached")
    return geometry
