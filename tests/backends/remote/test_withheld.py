"""What a content filter stops: told when it matters, an error only where nothing gets through."""

from __future__ import annotations

import logging

import pytest

from blackbox_delta.backends.remote.jobs import PartReply
from blackbox_delta.backends.remote.wires.readings import nothing
from blackbox_delta.backends.remote.withheld import Withheld
from blackbox_delta.errors import RejectedError
from blackbox_delta.types import AnswerSlot, Prompt, SoftSlot, Words

PROMPTS = [
    Prompt((Words("a dull mess"), SoftSlot("soft"), Words(" It was"), AnswerSlot())),
    Prompt((Words("another"), AnswerSlot())),
]


class Server:
    base_url = "https://toy.example/v1"

    def excerpt(self, text: str) -> str:
        return text.replace("mess", "[key]")


def part(stopped: bool, prompt: int = 0, reason: str = "HTTP 400: filtered") -> PartReply:
    held = (1, reason) if stopped else (0, "")
    return PartReply(((0, prompt),), (nothing(2),), (5,), (0,), (0,), *held)


@pytest.fixture
def found() -> Withheld:
    return Withheld(Server())


def test_nothing_is_told_of_nothing(found: Withheld, caplog: pytest.LogCaptureFixture) -> None:
    found.take(part(stopped=False), PROMPTS)
    found.tell()
    assert not caplog.records
    assert (found.count, found.answered) == (0, 1)


def test_the_first_is_told_and_then_whenever_they_are_ten_times_as_many(
    found: Withheld, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    found.take(part(stopped=False), PROMPTS)
    for number in range(1, 250):
        found.take(part(True, number % 2, f"HTTP 400: the reason {number}"), PROMPTS)
        found.tell()
        found.tell()
        if caplog.records:
            told.append(number)
            [record] = caplog.records
            assert record.levelno == logging.WARNING
            text = record.getMessage()
            assert f"stopped {number} of {number + 1} questions" in text
            assert "(HTTP 400: the reason 1), the first about 'another'" in text
            caplog.clear()
    assert told == [1, 10, 100]


def test_where_nothing_gets_through_it_is_an_error(found: Withheld) -> None:
    for _ in range(19):
        found.take(part(stopped=True), PROMPTS)
    with pytest.raises(RejectedError) as caught:
        found.take(part(stopped=True), PROMPTS)
    assert str(caught.value) == (
        "https://toy.example/v1: a content filter stopped all of 20 questions (HTTP 400: "
        "filtered), the first about 'a dull [key] It was'; change the template or the filter's "
        "settings"
    )


def test_one_answer_shows_that_some_texts_get_through(found: Withheld) -> None:
    found.take(part(stopped=False), PROMPTS)
    for _ in range(100):
        found.take(part(stopped=True), PROMPTS)
    assert (found.count, found.answered) == (100, 1)
