"""Texts that a server finds too long: cut from their ends, the longest most, and told once."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.remote.shortening import Shortening, shortened
from blackbox_delta.types import AnswerSlot, Prompt, SoftSlot, Words


class Server:
    base_url = "https://toy.example/v1"

    def excerpt(self, text: str) -> str:
        return text.replace("secret", "[key]")[:20]


def prompt(*texts: str) -> Prompt:
    words = [part for text in texts for part in (Words(text, truncatable=True), Words(" It was"))]
    return Prompt((Words("Say: "), SoftSlot("soft"), *words, AnswerSlot()))


def texts_of(prompt: Prompt) -> list[str]:
    return [each.text for each in prompt.segments if isinstance(each, Words) and each.truncatable]


@given(st.lists(st.text(max_size=200), max_size=3))
def test_texts_become_shorter_until_nothing_is_left(texts: list[str]) -> None:
    whole, cuts = prompt(*texts), 0
    before = whole
    while (after := shortened(before)) is not None:
        kept, old = texts_of(after), texts_of(before)
        assert sum(map(len, kept)) == sum(map(len, old)) * 3 // 4
        assert all(text.startswith(part) for text, part in zip(old, kept, strict=True))
        # A text is cut to what the longest keeps, and no shorter one is cut at all.
        level = max(map(len, kept))
        assert all(
            len(part) >= min(len(text), level - 1) for text, part in zip(old, kept, strict=True)
        )
        before, cuts = after, cuts + 1
    assert sum(map(len, texts_of(before))) <= 1
    assert cuts <= 25
    # What is no text stays.
    rest = [each for each in before.segments if not getattr(each, "truncatable", False)]
    assert rest == [each for each in whole.segments if not getattr(each, "truncatable", False)]


def test_the_first_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shorten = Shortening(Server())
    assert shorten(prompt("")) is None
    assert not caplog.records
    for _ in range(3):
        assert texts_of(shorten(prompt("my secret, and much besides", "short"))) == [
            "my secret, and much",
            "short",
        ]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith("https://toy.example/v1: texts that are longer than the model's context")
    assert "'my [key], and much b'" in text
