"""Templates: how an example becomes a prompt, and where the delta sits in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from blackbox_delta.errors import TemplateError
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    Example,
    Prompt,
    Segment,
    SoftSlot,
    Words,
)

DEFAULT_SINGLE = "Text: {text}{soft} {label}"
DEFAULT_PAIR = "Text: {text}\nText: {text_pair}{soft} {label}"
#: What the soft prompt of the default templates may start from. The search begins with the words
#: under which the training examples are told apart best; see the README for what each is worth.
DEFAULT_STARTS = ("\nIn one word, it is", "\nCategory:")
#: Words of further views, for any task; ``{options}`` stands for the label words.
VIEW_STARTS = (
    *DEFAULT_STARTS,
    "\nIt was",
    "\nThis is about",
    "\nIn short, it is",
    "\nType:",
    "\nOverall, this is",
    "\nTopic:",
    "\nThe answer is",
    "\nSentiment:",
    "\nIntent:",
    "\nIs it {options}? It is",
)
#: The same for pairs of texts.
VIEW_STARTS_PAIR = (
    *DEFAULT_STARTS,
    "\nDoes the first imply the second? Answer:",
    "\nAre they the same? Answer:",
    "\nRelation:",
    "\nThe two texts are",
    "\nThe second text is",
    "\nIs it {options}? It is",
)
#: For models that answer a turn of a chat instead of going on with the words.
DEFAULT_CHAT_SINGLE = (
    "Text: {text}\nWhich of these is it: {options}? Answer with that word alone. {label}"
)
DEFAULT_CHAT_PAIR = (
    "Text: {text}\nText: {text_pair}\n"
    "Which of these is it: {options}? Answer with that word alone. {label}"
)

FIELDS = ("{text}", "{text_pair}", "{label}", "{soft}", "{soft:N}", "{options}", "{decoder}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for soft tokens.

    Attributes:
        name: ``soft.0``, ``soft.1``, … in reading order.
        length: Its own number of tokens; ``None`` takes the delta's.
    """

    name: str
    length: int | None


@dataclass(frozen=True, slots=True)
class _Field:
    """A value that is known only when an example is rendered."""

    name: str


_Piece: TypeAlias = Segment | _Field


@dataclass(frozen=True)
class Template:
    r"""A parsed template. Make one with :meth:`parse`.

    Fields are ``{text}``, ``{text_pair}``, ``{label}`` (exactly once), ``{options}`` (the label
    words joined by ``", "``), ``{soft}`` (a slot of the delta's length) and ``{soft:N}`` (a slot of
    N tokens), and ``{decoder}`` (at most once: what follows goes to the decoder of a
    sequence-to-sequence model). A literal brace is doubled: ``{{`` and ``}}``. A backslash
    followed by ``n`` is a new line, so that templates can be written on a command line; two
    backslashes are one.

    Spaces are placed so that every model sees the tokens of ordinary text: those before
    ``{label}`` move into the label word (``choice_prefix``), those before ``{soft}`` and
    ``{decoder}`` are dropped, and so are those at the start of the prompt and of the decoder's
    part. Words after a slot keep the space in front of them. New lines stay where they are, except
    at the end of the template, where white space after ``{label}`` is dropped.

    Attributes:
        source: The template as written.
        slots: Its slots in reading order.
        uses_pair: Whether it has ``{text_pair}``.
        uses_decoder: Whether it has ``{decoder}``.
        text_after_answer: Whether anything follows ``{label}``, which only masked models can read.
        choice_prefix: What a label word is to be preceded by: a space or nothing.
    """

    source: str
    slots: tuple[Slot, ...]
    uses_pair: bool
    uses_decoder: bool
    text_after_answer: bool
    choice_prefix: str
    _pieces: tuple[_Piece, ...]

    @classmethod
    def parse(cls, source: str) -> Template:
        """Reads a template.

        Raises:
            TemplateError: It lacks ``{text}`` or ``{label}``, has an unknown or repeated field,
                a slot without a sensible length, or a lone brace.
        """
        slots: list[Slot] = []
        raw = [_piece(token, slots, source) for token in _scan(source)]
        _check_fields(raw, source)
        pieces, prefix = _place_spaces(raw)
        return cls(
            source=source,
            slots=tuple(slots),
            uses_pair=_Field("text_pair") in pieces,
            uses_decoder=DecoderStart() in pieces,
            text_after_answer=pieces[-1] != AnswerSlot(),
            choice_prefix=prefix,
            _pieces=tuple(pieces),
        )

    def check(self, pairs: bool) -> None:
        """Checks that the template fits data of pairs, or of single texts.

        Raises:
            TemplateError: It does not.
        """
        if self.uses_pair and not pairs:
            raise TemplateError(
                "the template has {text_pair}, but the examples are single texts: "
                f"{self.source!r}"
            )
        if pairs and not self.uses_pair:
            raise TemplateError(
                "the template lacks {text_pair}, so the second text of each pair would go unread: "
                f"{self.source!r}"
            )

    def render(self, example: Example, options: Sequence[str]) -> Prompt:
        """The prompt for one example; white space around its texts is dropped.

        Args:
            example: Its label is not looked at.
            options: The c label words for ``{options}``.

        Raises:
            TemplateError: The template has ``{text_pair}`` and the example no second text.
        """
        if self.uses_pair and example.text_pair is None:
            self.check(pairs=False)
        values = {
            "text": Words(example.text.strip(), truncatable=True),
            "text_pair": Words((example.text_pair or "").strip(), truncatable=True),
            "options": Words(", ".join(options)),
        }
        filled = (values[p.name] if isinstance(p, _Field) else p for p in self._pieces)
        return Prompt(tuple(_merge(filled)))


def default_template(pairs: bool, chat: bool = False) -> str:
    """The template that is used when the user gives none."""
    if chat:
        return DEFAULT_CHAT_PAIR if pairs else DEFAULT_CHAT_SINGLE
    return DEFAULT_PAIR if pairs else DEFAULT_SINGLE


def escaped(text: str) -> str:
    """Text as a template has to spell it, so that it is read as it stands."""
    return text.replace("\\", "\\\\").replace("{", "{{").replace("}", "}}")


def in_words(source: str, words: str) -> str:
    """The template with plain words in place of its slots, for models that take text only."""
    tokens = _TOKEN.findall(source)
    return "".join(escaped(words) if _SLOT.fullmatch(token) else token for token in tokens)


# ------------------------------------------------------------------------- parsing

# Literal text with doubled braces, a field, or a brace that belongs to neither.
_TOKEN = re.compile(r"(?:[^{}]|\{\{|\}\})+|\{[^{}]*\}|[{}]")
_LENGTH = re.compile(r"[1-9][0-9]{0,4}")
_SLOT = re.compile(r"\{soft(?::[0-9]+)?\}")
_ESCAPE = re.compile(r"\\([n\\])")


def _scan(source: str) -> Iterator[str]:
    written = _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else "\\", source)
    return (match.group() for match in _TOKEN.finditer(written))


def _piece(token: str, slots: list[Slot], source: str) -> _Piece:
    """One piece; a slot is also added to ``slots``."""
    if token in ("{", "}"):
        raise TemplateError(
            f"a lone '{token}' in the template {source!r}: fields are written as in {{text}}, and "
            f"a literal brace is doubled, {token * 2}"
        )
    if not token.startswith("{") or token.startswith("{{"):
        return Words(token.replace("{{", "{").replace("}}", "}"))
    name, colon, length = token[1:-1].partition(":")
    if name == "soft":
        slots.append(Slot(f"soft.{len(slots)}", _length(length, source) if colon else None))
        return SoftSlot(slots[-1].name)
    return _field(token, source)


def _length(text: str, source: str) -> int:
    if not _LENGTH.fullmatch(text):
        raise TemplateError(
            f"{{soft:{text}}} in the template {source!r}: the length of a slot is a number of "
            "tokens from 1 to 99999"
        )
    return int(text)


def _field(token: str, source: str) -> _Piece:
    if token == "{label}":
        return AnswerSlot()
    if token == "{decoder}":
        return DecoderStart()
    if token in ("{text}", "{text_pair}", "{options}"):
        return _Field(token[1:-1])
    raise TemplateError(
        f"unknown field {token} in the template {source!r}. Known are: {', '.join(FIELDS)}"
    )


def _check_fields(pieces: Sequence[_Piece], source: str) -> None:
    if _Field("text") not in pieces:
        raise TemplateError(f"the template lacks {{text}}: {source!r}")
    labels = pieces.count(AnswerSlot())
    if labels != 1:
        raise TemplateError(
            f"the template needs {{label}} once and has it {labels} times: {source!r}"
        )
    if pieces.count(DecoderStart()) > 1:
        raise TemplateError(f"the template has {{decoder}} more than once: {source!r}")
    if DecoderStart() in pieces and pieces.index(AnswerSlot()) < pieces.index(DecoderStart()):
        raise TemplateError(
            f"{{label}} must come after {{decoder}}, for the decoder gives the answer: {source!r}"
        )


# -------------------------------------------------------------------------- spaces


def _place_spaces(raw: Sequence[_Piece]) -> tuple[list[_Piece], str]:
    """The pieces with their spaces where tokenisers want them, and the choice prefix."""
    pieces: list[_Piece] = []
    prefix = ""
    for piece in raw:
        at_start = not pieces or pieces[-1] == DecoderStart()
        if isinstance(piece, Words) and at_start:
            piece = Words(piece.text.lstrip(" "))
        elif isinstance(piece, AnswerSlot | SoftSlot | DecoderStart) and _drop_spaces(pieces):
            prefix = " " if isinstance(piece, AnswerSlot) else prefix
        if piece != Words(""):
            pieces.append(piece)
    if isinstance(pieces[-1], Words) and not pieces[-1].text.strip():
        pieces.pop()
    return pieces, prefix


def _drop_spaces(pieces: list[_Piece]) -> bool:
    """Removes the spaces at the end of ``pieces``; whether there were any."""
    last = pieces[-1] if pieces else None
    if not isinstance(last, Words) or not last.text.endswith(" "):
        return False
    pieces[-1:] = [Words(last.text.rstrip(" "))] if last.text.strip(" ") else []
    return True


def _merge(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Joins neighbouring fixed words and drops empty ones."""
    words = ""
    for segment in segments:
        if isinstance(segment, Words) and not segment.truncatable:
            words += segment.text
        elif segment != Words("", truncatable=True):
            if words:
                yield Words(words)
            words = ""
            yield segment
    if words:
        yield Words(words)
