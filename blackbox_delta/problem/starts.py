"""What a run may start from: words in the soft slot, or in the template where there is none."""

from __future__ import annotations

from dataclasses import dataclass

from blackbox_delta.deltas import TEXT, Prefix, SoftPrompt
from blackbox_delta.deltas.soft_prompt import one_each
from blackbox_delta.errors import ConfigError, UnsupportedError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    VIEW_STARTS,
    VIEW_STARTS_PAIR,
    Template,
    Verbalizer,
    default_template,
)
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import IN_SLOTS, Backend, Capabilities


@dataclass(frozen=True)
class Start:
    """A template, and what its soft slot starts from.

    Attributes:
        source: The template as written.
        init: What the slot starts from; ``None`` leaves it to the delta. Where plain words stand
            in the slot's place, ``"text:"`` and these words.
    """

    source: str
    init: str | None = None

    @property
    def words(self) -> str | None:
        """The words that it consists of, if it does."""
        slots = self.source.count("{soft")
        each = one_each(self.init, max(slots, 1))
        words = [init.removeprefix(TEXT) for init in each if init and init.startswith(TEXT)]
        if len(words) < len(each):
            return None
        return words[0] if len(set(words)) == 1 else " | ".join(words)


def starts_in_words(able: Capabilities, settings: Settings) -> bool:
    """Whether the template is left open and will hold plain words, as no soft prompt is tuned."""
    return settings.template is None and _plain(able, settings)


def _plain(able: Capabilities, settings: Settings) -> bool:
    """Whether words stand in the template instead of a slot: no soft prompt is taken, or wanted."""
    filling = set(settings.delta_kinds).intersection(IN_SLOTS)
    return SoftPrompt.kind not in able.deltas or not filling


def find_starts(
    backend: Backend, settings: Settings, verbalizer: Verbalizer, pairs: bool
) -> list[Start]:
    """What a run may start from; several where that is left open.

    Raises:
        UnsupportedError: There is no delta, and no place for words.
        ConfigError: Nothing starts from what is given.
        TemplateError: The template cannot be read.
    """
    able, options = backend.capabilities, ", ".join(verbalizer.words)
    plain = _plain(able, settings)
    init = settings.soft_init
    if init is not None:
        init = init.replace("{options}", options).replace("\\n", "\n")
    if settings.template is not None:
        if init is not None:
            _check_read(settings, settings.template, init, plain)
        own = [Start(settings.template, init)]
        return own if init is not None else own + _other_views(able, settings, options, pairs)
    source = default_template(pairs, chat=plain and able.chat)
    if init is None:
        return _shipped(able, settings, options, pairs)
    if plain and (able.chat or not init.startswith(TEXT)):
        raise UnsupportedError(
            f"{_idle(backend, settings)}, so nothing can start from {init!r}; leave soft_init out, "
            "or give a template with the words that you want"
        )
    return [_with_words(source, init, plain)]


def _idle(backend: Backend, settings: Settings) -> str:
    """Why there is no soft prompt."""
    if SoftPrompt.kind in backend.capabilities.deltas:
        return f"{settings.delta} has no soft prompt"
    return f"{backend.name} takes no soft prompts"


def _check_read(settings: Settings, source: str, init: str, plain: bool) -> None:
    """Makes sure that a slot of one's own template, or a prefix, starts from what is given."""
    prefix = Prefix.kind in settings.delta_kinds
    if Template.parse(source).slots or (prefix and init.startswith(TEXT)):
        return
    if prefix:
        advice = f"a prefix starts from words alone: {TEXT}WORDS"
    elif plain:
        advice = "write the words that you want into it, and leave soft_init out"
    else:
        advice = "write {soft} where the soft prompt is to stand, or leave soft_init out"
    raise ConfigError(
        f"nothing starts from soft_init = {settings.soft_init!r}, for the template has no {{soft}} "
        f"slot; {advice}"
    )


def _other_views(able: Capabilities, settings: Settings, options: str, pairs: bool) -> list[Start]:
    """What joins the user's own template."""
    alone = settings.recipe == "search" or "words" in settings.left_out
    return [] if alone else _shipped(able, settings, options, pairs)


def _shipped(able: Capabilities, settings: Settings, options: str, pairs: bool) -> list[Start]:
    plain = _plain(able, settings)
    source = default_template(pairs, chat=plain and able.chat)
    if plain and able.chat:
        return [Start(source)]
    several = VIEW_STARTS_PAIR if pairs else VIEW_STARTS
    words: tuple[str, ...] = DEFAULT_STARTS if settings.recipe == "search" else several
    if settings.recipe == "auto" and "words" in settings.left_out:
        words = words[:1]
    return [_with_words(source, TEXT + each.replace("{options}", options), plain) for each in words]


def _with_words(source: str, init: str, plain: bool) -> Start:
    return Start(in_words(source, init.removeprefix(TEXT)) if plain else source, init)
