"""Examples, and the prompts that they are put into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or a pair of texts, with its label where it is known."""

    text: str
    text_pair: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Fixed text. Only pieces that are ``truncatable`` (the user's text) may be shortened."""

    text: str
    truncatable: bool = False


@dataclass(frozen=True, slots=True)
class SoftSlot:
    """Where the soft prompt called ``name`` sits; empty for a candidate without one."""

    name: str


@dataclass(frozen=True, slots=True)
class DecoderStart:
    """What follows goes to the decoder (sequence-to-sequence models only)."""


@dataclass(frozen=True, slots=True)
class AnswerSlot:
    """Where the choice is read or filled in."""


Segment: TypeAlias = Words | SoftSlot | DecoderStart | AnswerSlot


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered template: segments in reading order, with exactly one :class:`AnswerSlot`."""

    segments: tuple[Segment, ...]

    def digest(self) -> bytes:
        """SHA-256 over everything a reply to this prompt depends on."""
        return hashlib.sha256(repr(self.segments).encode()).digest()
