"""Templates: what the model reads, where the slots sit, and where the spaces go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import TemplateError
from blackbox_delta.tasks import (
    DEFAULT_PAIR,
    DEFAULT_SINGLE,
    Slot,
    Template,
    default_template,
)
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    Example,
    Prompt,
    Segment,
    SoftSlot,
    Words,
)

T = Words("a film", truncatable=True)
P = Words("a claim", truncatable=True)
S0, S1, S2 = SoftSlot("soft.0"), SoftSlot("soft.1"), SoftSlot("soft.2")
A = AnswerSlot()
PAIR = Example("a film", "a claim")


def rendered(source: str, example: Example = PAIR) -> tuple[Segment, ...]:
    return Template.parse(source).render(example, ("good", "not good")).segments


def as_text(prompt: Prompt, choice: str) -> str:
    """What a reader sees once the slots are empty and the answer is filled in."""
    shown = ""
    for segment in prompt.segments:
        if isinstance(segment, Words):
            shown += segment.text
        elif isinstance(segment, AnswerSlot):
            shown += choice
    return shown


@pytest.mark.parametrize(
    ("source", "segments", "prefix"),
    [
        ("{text} {soft} It was {label}", (T, S0, Words(" It was"), A), " "),
        ("{soft} {text} It was {label}", (S0, Words(" "), T, Words(" It was"), A), " "),
        ("{text} It was {soft} {label}", (T, Words(" It was"), S0, A), " "),
        ("{text}{label}", (T, A), ""),
        ("{text} {label}", (T, A), " "),
        ("{text}   {label}", (T, A), " "),
        ("{text}\n{label}", (T, Words("\n"), A), ""),
        ("{text}:\n  {label}", (T, Words(":\n"), A), " "),
        ("{text} \n{label}", (T, Words(" \n"), A), ""),
        ("{text}\n{soft}{label}", (T, Words("\n"), S0, A), ""),
        ("{text}\n {soft}{label}", (T, Words("\n"), S0, A), ""),
        ("  Text: {text} {label}", (Words("Text: "), T, A), " "),
        ("  {text} {label}", (T, A), " "),
        (" {soft} {text} {label}", (S0, Words(" "), T, A), " "),
        ("{text} {soft} {soft:3} x {soft} {label}", (T, S0, S1, Words(" x"), S2, A), " "),
        ("{text} or {options}? {label}", (T, Words(" or good, not good?"), A), " "),
        ("{options}{options} {text}{label}", (Words("good, not goodgood, not good "), T, A), ""),
        ("{text} / {text_pair} {label}", (T, Words(" / "), P, A), " "),
        (r"{text}\nAnswer: {label}", (T, Words("\nAnswer:"), A), " "),
        ("{text} {{{label}", (T, Words(" {"), A), ""),
        ("{{{text}}} }}{{ {label}", (Words("{"), T, Words("} }{"), A), " "),
        ("{text} It was {label}\n", (T, Words(" It was"), A), " "),
        ("{text} It was {label} .", (T, Words(" It was"), A, Words(" .")), " "),
        ("{label} is {text}", (A, Words(" is "), T), ""),
        ("  {label} is {text}", (A, Words(" is "), T), ""),
        ("{text} {decoder} It is {label}", (T, DecoderStart(), Words("It is"), A), " "),
        ("{text} {decoder} {label}", (T, DecoderStart(), A), ""),
        ("{text} {decoder} {soft} {label}", (T, DecoderStart(), S0, A), " "),
    ],
)
def test_segments_and_spaces(source: str, segments: tuple[Segment, ...], prefix: str) -> None:
    template = Template.parse(source)
    assert rendered(source) == segments
    assert template.choice_prefix == prefix
    assert template.source == source


def test_slots_have_names_and_lengths() -> None:
    template = Template.parse("{soft} {text} {soft:3} fixed {soft:20} {label}")
    assert template.slots == (Slot("soft.0", None), Slot("soft.1", 3), Slot("soft.2", 20))
    assert Template.parse("{text} {label}").slots == ()


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("{text} {label}", False),
        ("{text} {label} \n", False),
        ("{text} {label}.", True),
        ("{text} {label} {soft}", True),
        ("{label} {text}", True),
        ("{text} {label}{options}", True),
    ],
)
def test_what_follows_the_answer_is_noticed(source: str, after: bool) -> None:
    assert Template.parse(source).text_after_answer is after


def test_use_of_pairs_and_decoder_is_noticed() -> None:
    plain = Template.parse("{text} {label}")
    full = Template.parse("{text} {text_pair} {decoder} {label}")
    assert (plain.uses_pair, plain.uses_decoder) == (False, False)
    assert (full.uses_pair, full.uses_decoder) == (True, True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("It was {label}", r"lacks \{text\}"),
        ("", r"lacks \{text\}"),
        ("{text_pair} {label}", r"lacks \{text\}"),
        ("{text}", r"needs \{label\} once and has it 0 times"),
        ("{text} {label} {label}", "has it 2 times"),
        ("{text} {mask} {label}", r"unknown field \{mask\}.*\{text_pair\}, \{label\}, \{soft\}"),
        ("{text} {} {label}", r"unknown field \{\}"),
        ("{text} { label}", r"unknown field \{ label\}"),
        ("{text:3} {label}", r"unknown field \{text:3\}"),
        ("{text {label}", r"a lone '\{'"),
        ("{text} } {label}", r"a lone '\}'.*\}\}"),
        ("{{text}} {label", r"a lone '\{'"),
        ("{text}}} } {label}", r"a lone '\}'"),
        ("{text} {decoder} {decoder} {label}", r"\{decoder\} more than once"),
        ("{text} {label} {decoder}", r"\{label\} must come after \{decoder\}"),
        *[
            (f"{{text}} {{soft:{length}}} {{label}}", "from 1 to 99999")
            for length in ("", "0", "-1", "x", "1.5", " 3", "٣", "9" * 5000)
        ],
    ],
)
def test_a_bad_template_is_refused(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        Template.parse(source)


def test_templates_and_data_must_agree_on_pairs() -> None:
    single, pair = Template.parse("{text} {label}"), Template.parse("{text} {text_pair} {label}")
    single.check(pairs=False)
    pair.check(pairs=True)
    with pytest.raises(TemplateError, match=r"lacks \{text_pair\}"):
        single.check(pairs=True)
    with pytest.raises(TemplateError, match="are single texts"):
        pair.check(pairs=False)
    with pytest.raises(TemplateError, match="are single texts"):
        pair.render(Example("alone"), ())


@pytest.mark.parametrize("pairs", [False, True])
def test_the_default_templates_fit_their_data(pairs: bool) -> None:
    source = default_template(pairs)
    assert source == (DEFAULT_PAIR if pairs else DEFAULT_SINGLE)
    template = Template.parse(source)
    template.check(pairs=pairs)
    assert template.slots
    assert not template.text_after_answer
    assert not template.uses_decoder


@pytest.mark.parametrize("pairs", [False, True])
def test_a_chat_is_asked_for_one_of_the_options(pairs: bool) -> None:
    template = Template.parse(default_template(pairs, chat=True))
    template.check(pairs=pairs)
    assert (template.slots, template.choice_prefix) == ((), " ")
    assert not template.text_after_answer
    example = PAIR if pairs else Example("a film")
    texts = "Text: a film\nText: a claim" if pairs else "Text: a film"
    asked = "Which of these is it: good, bad? Answer with that word alone."
    assert as_text(template.render(example, ("good", "bad")), "") == f"{texts}\n{asked}"


@given(words=st.text(st.characters(codec="utf-8", exclude_characters="\\")).filter(str.strip))
def test_any_words_can_stand_where_the_soft_prompt_stood(words: str) -> None:
    template = Template.parse(in_words("Text: {text}{soft} {label}", words))
    assert template.slots == ()
    shown = as_text(template.render(Example("a film"), ()), "")
    assert shown == f"Text: a film{words}".rstrip(" ")


# -------------------------------------------------------------------------- properties

# A backslash followed by n is an escape, so a literal backslash cannot always come back.
literals = st.text(st.characters(codec="utf-8", exclude_characters="\\"))
texts = literals.filter(str.strip)


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(before=literals, between=literals, text=texts)
def test_any_words_come_back_and_nothing_in_a_text_is_a_field(
    before: str, between: str, text: str
) -> None:
    template = Template.parse(f"{escaped(before)}{{text}}{escaped(between)}{{label}}")
    prompt = template.render(Example(text), ())
    shown = before.lstrip(" ") + text.strip() + between.rstrip(" ")
    assert as_text(prompt, "") == shown
    assert template.choice_prefix == (" " if between.endswith(" ") else "")
    assert [s for s in prompt.segments if isinstance(s, Words) and s.truncatable] == [
        Words(text.strip(), truncatable=True)
    ]


pieces = st.lists(
    st.sampled_from(
        ["{text}", "{text_pair}", "{soft}", "{soft:2}", "{options}", " ", "  ", "\n", "x", " y "]
    )
)


@given(pieces, pieces, pieces)
def test_no_template_gives_a_stray_segment(
    first: list[str], second: list[str], third: list[str]
) -> None:
    source = "".join([*first, "{text}", *second, "{label}", *third])
    template = Template.parse(source)
    segments = template.render(PAIR, ("good", "bad")).segments
    assert segments.count(A) == 1
    assert [s.name for s in segments if isinstance(s, SoftSlot)] == [s.name for s in template.slots]
    for here, following in zip(segments, (*segments[1:], None), strict=True):
        if isinstance(here, Words):
            assert here.text
            # No lone space before a slot or the answer, and no two fixed pieces in a row.
            assert not (isinstance(following, SoftSlot | AnswerSlot) and here.text.endswith(" "))
            assert not (following == Words(getattr(following, "text", "")) and not here.truncatable)
    assert not (isinstance(segments[0], Words) and segments[0].text.startswith(" "))
    # Slots apart, a reader sees what was written, up to spaces.
    written = source.replace("{soft}", "").replace("{soft:2}", "")
    for field, value in (
        ("{text}", "a film"),
        ("{text_pair}", "a claim"),
        ("{options}", "good, bad"),
        ("{label}", "CHOICE"),
    ):
        written = written.replace(field, value)
    shown = as_text(Prompt(segments), template.choice_prefix + "CHOICE")
    assert "".join(shown.split()) == "".join(written.split())


@given(st.text(alphabet="{}text_labelsoft:123 \\n", max_size=40))
def test_any_string_is_parsed_or_refused_with_our_error(source: str) -> None:
    try:
        template = Template.parse(source)
    except TemplateError:
        return
    assert Template.parse(template.source) == template
