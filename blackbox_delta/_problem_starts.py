"""What a run may start from: words in the soft slot, or in the template where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.deltas import TEXT, SoftPrompt
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    VIEW_STARTS,
    VIEW_STARTS_PAIR,
    Verbalizer,
    default_template,
)
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import Backend, Capabilities


def starts_in_words(able: Capabilities, settings: Settings) -> bool:
    """Whether the template is left open and will hold plain words, as no soft prompt is taken."""
    return settings.template is None and SoftPrompt.kind not in able.deltas


def start_inits(
    backend: Backend, settings: Settings, verbalizer: Verbalizer, pairs: bool
) -> list[str | None]:
    """What the delta may start from, or the words in its place; several where it is left open.

    Raises:
        UnsupportedError: There is no delta, and no place for words.
    """
    init, able = settings.soft_init, backend.capabilities
    options = ", ".join(verbalizer.words)
    plain = starts_in_words(able, settings)
    if init is None:
        one = settings.template is not None or (plain and able.chat)
        return [None] if one else [TEXT + words for words in _words(settings, options, pairs)]
    if plain and (able.chat or not init.startswith(TEXT)):
        raise UnsupportedError(
            f"{backend.name} takes no soft prompts, so nothing can start from {init!r}; leave "
            "soft_init out, or give a template with the words that you want"
        )
    return [init.replace("{options}", options).replace("\\n", "\n")]


def _words(settings: Settings, options: str, pairs: bool) -> Sequence[str]:
    if settings.recipe == "search":
        return DEFAULT_STARTS
    views = VIEW_STARTS_PAIR if pairs else VIEW_STARTS
    return [words.replace("{options}", options) for words in views]


def start_words(init: str | None) -> str | None:
    """The words that a start consists of, if it does."""
    return init.removeprefix(TEXT) if init and init.startswith(TEXT) else None


def template_sources(
    able: Capabilities, settings: Settings, pairs: bool, inits: Sequence[str | None]
) -> list[str]:
    """The template for each start."""
    if settings.template is not None:
        return [settings.template for _ in inits]
    plain = starts_in_words(able, settings)
    source = default_template(pairs, chat=plain and able.chat)
    return [in_words(source, start_words(init) or "") if plain else source for init in inits]
