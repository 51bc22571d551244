"""How an example becomes a prompt, demonstrations and all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from posing import UNSEARCHED, build

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Reader
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import AnswerSlot, Capabilities, Example, SoftSlot, Words


class MaskedLike(FakeBackend):
    """Says that it reads what follows the answer, and has a decoder."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, decoder_slot=True, text_after_answer=True, max_top_k=7)


@pytest.mark.parametrize(
    ("template", "what"),
    [("{text} It was {label}, all told", "reads from left"), ("{text}{decoder}{label}", "decoder")],
)
def test_a_template_is_checked_against_what_the_backend_reads(template: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        build(template=template)
    assert len(build(MaskedLike(), template=template, **UNSEARCHED).train) == 10


def test_content_free_texts_stand_alone_in_templates_of_pairs() -> None:
    template = Template.parse("{text} / {text_pair} = {label}")
    reader = Reader(template, build().reader.verbalizer)
    prompt, *_ = reader.references(make_head("contextual"))
    assert prompt.segments == (Words("N/A", truncatable=True), Words(" /  ="), AnswerSlot())


AWKWARD = ["{text}", "a {label} }} b", "{{", "}", "{soft:3} and {options}", " {decoder}\n\n"]
WORDS = Verbalizer(("+", "-"), ("very good", "so {bad}"))


def as_read(reader: Reader, example: Example) -> str:
    """All that a model reads before it answers."""
    [prompt] = reader.prompts([example])
    assert prompt.segments[-1] == AnswerSlot()
    assert not any(isinstance(segment, SoftSlot) for segment in prompt.segments)
    return "".join(segment.text for segment in prompt.segments[:-1] if isinstance(segment, Words))


@pytest.mark.parametrize("shown", AWKWARD)
@pytest.mark.parametrize("asked", AWKWARD)
def test_a_demonstration_reads_as_its_text_and_label_do(shown: str, asked: str) -> None:
    """Braces in texts and label words are no fields; a label word may hold a space."""
    reader = Reader(Template.parse("{options}? Text: {text} {{it}} is {label}"), WORDS)
    lead = reader.demonstrating([Example(shown, label="-"), Example("fine", label="+")])
    head = "very good, so {bad}? Text: "
    assert as_read(lead, Example(asked)) == (
        f"{head}{shown.strip()} {{it}} is so {{bad}}\n\n"
        f"{head}fine {{it}} is very good\n\n"
        f"{head}{asked.strip()} {{it}} is"
    )
    assert lead.choices == reader.choices == (" very good", " so {bad}")


def test_a_demonstration_survives_being_written_down() -> None:
    reader = Reader(Template.parse("Text: {text} is {label}"), WORDS)
    lead = reader.demonstrating([Example(text, label="-") for text in AWKWARD])
    again = replace(lead, template=Template.parse(lead.template.source))
    assert again == lead
    assert as_read(again, Example("a")) == as_read(lead, Example("a"))


def test_demonstrations_of_pairs_show_both_texts() -> None:
    reader = Reader(Template.parse("{text} / {text_pair} = {label}"), WORDS)
    lead = reader.demonstrating([Example("one", "two {3}", "+")])
    assert lead.template.uses_pair
    assert as_read(lead, Example("four", "five")) == ("one / two {3} = very good\n\nfour / five =")


def test_a_label_that_follows_its_words_at_once_is_shown_so() -> None:
    reader = Reader(Template.parse("{text}->{label}"), WORDS)
    lead = reader.demonstrating([Example("one", label="+")])
    assert as_read(lead, Example("two")) == "one->very good\n\ntwo->"


def test_nothing_shown_changes_nothing() -> None:
    reader = build().reader
    assert reader.demonstrating([]) == reader


def test_where_a_decoder_answers_demonstrations_show_the_label_once() -> None:
    reader = Reader(Template.parse("{text} It is {decoder} {label}"), WORDS)
    lead = reader.demonstrating([Example("one", label="+")])
    [prompt] = lead.prompts([Example("two")])
    assert prompt.segments[0] == Words("one It is very good\n\n")
