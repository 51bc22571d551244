from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from blackbox_delta._problem_starts import Start, find_starts
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import (
    BackendError,
    BlackBoxDeltaError,
    ConfigError,
    DataError,
    TemplateError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Problem, Reader, ask, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    VIEW_STARTS,
    VIEW_STARTS_PAIR,
    FewShotSplit,
    Template,
    Verbalizer,
    default_template,
    draw_split,
    load_task,
)
from blackbox_delta.types import (
    AnswerSlot,
    Capabilities,
    Example,
    ScoreRequest,
    Scores,
    Sink,
    SoftSlot,
    Words,
)

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=7)
SMALL = {"recipe": "search", "dimension": 20, "soft_tokens": 3}
AUTO = {"recipe": "auto"}
HIDDEN = 16


def build(backend: FakeBackend | None = None, **settings: Any) -> Problem:
    return build_problem(backend or FakeBackend(), SPLIT, Settings.of({**SMALL, **settings}))


def test_the_parts_hold_every_example_with_its_label() -> None:
    problem = build()
    assert (len(problem.train), len(problem.dev), len(problem.test)) == (10, 10, 7)
    labels = problem.reader.verbalizer.labels
    assert labels == ("account", "billing", "delivery", "sales", "technical")
    for part, examples in zip(
        (problem.train, problem.dev, problem.test),
        (SPLIT.train, SPLIT.dev, SPLIT.test),
        strict=True,
    ):
        assert [labels[index] for index in part.labels] == [each.label for each in examples]
        for prompt, example in zip(part.prompts, examples, strict=True):
            assert example.text in "".join(getattr(s, "text", "") for s in prompt.segments)


def test_shapes_along_the_data_path() -> None:
    problem = build()
    assert problem.frame is not None
    z = np.random.default_rng(0).standard_normal((4, 20))  # (λ, d)
    batch = problem.frame.candidates(z)
    assert {name: value.shape for name, value in batch.tensors.items()} == {
        "soft.0": (4, 3, HIDDEN)
    }
    scores = ask(FakeBackend(), problem.request(problem.train.prompts, batch, 6))
    assert scores.label_logprobs.shape == (4, 10, 5)  # (λ, n, c)
    assert scores.top_ids.shape == scores.top_logprobs.shape == (4, 10, 6)  # (λ, n, k)


def test_one_candidate_is_the_same_alone_and_in_a_population() -> None:
    problem = build()
    assert problem.frame is not None
    z = np.random.default_rng(1).standard_normal((3, 20))
    alone = problem.delta(z[1])
    assert alone is not None
    assert alone.digest(0) == problem.frame.candidates(z).digest(1)
    assert problem.delta(None) is None


@pytest.mark.parametrize(
    ("template", "soft_tokens", "lengths"),
    [
        ("{text} {soft} It is {label}", 3, [3]),
        ("{text} {soft} It is {label}", None, [10]),
        ("{soft:2} {text} {soft} It is {label}", 5, [2, 5]),
    ],
)
def test_slots_have_their_own_length_or_that_of_the_settings(
    template: str, soft_tokens: int | None, lengths: list[int]
) -> None:
    frame = build(template=template, soft_tokens=soft_tokens).frame
    assert frame is not None
    assert list(frame.delta.slots.values()) == lengths


def test_each_default_start_is_the_words_themselves() -> None:
    backend = FakeBackend()
    problem = build(backend, soft_tokens=None)
    table = backend.embedding_table
    assert table is not None
    starts = (problem, *problem.rivals)
    assert [start.words for start in starts] == list(DEFAULT_STARTS)
    for start in starts:
        delta = start.delta(start.start)
        assert delta is not None
        assert start.words is not None
        words = table.rows(table.tokenize(start.words))
        np.testing.assert_array_equal(delta.tensors["soft.0"][0], words)


@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_words_of_ones_own_leave_no_other_start(recipe: str) -> None:
    assert build(recipe=recipe, soft_init="text:It was").rivals == ()
    own = {"recipe": recipe, "template": "{text} {soft} It was {label}"}
    assert build(**own, soft_init="zero").rivals == ()


def test_a_template_of_ones_own_is_the_only_start_of_a_search() -> None:
    assert build(template="{text} {soft} It was {label}").rivals == ()


# ------------------------------------------------------------------ the views of auto

OPTIONS = "account, billing, delivery, sales, technical"
VIEWS = [words.replace("{options}", OPTIONS) for words in VIEW_STARTS]


def test_auto_starts_from_the_words_of_every_view() -> None:
    """The first two are those of a search, so that both have the same untuned model."""
    problem = build(**AUTO)
    starts = (problem, *problem.rivals)
    assert [start.words for start in starts] == VIEWS
    assert VIEWS[: len(DEFAULT_STARTS)] == list(DEFAULT_STARTS)
    table = FakeBackend().embedding_table
    assert table is not None
    for start in starts:
        delta = start.delta(start.start)
        assert delta is not None
        first = table.rows(table.tokenize(str(start.words)))[:3]
        np.testing.assert_array_equal(delta.tensors["soft.0"][0][: len(first)], first)


def test_pairs_have_views_of_their_own() -> None:
    pairs = [Example(f"{n} one", f"{n} two", label) for n in range(4) for label in ("yes", "no")]
    split = FewShotSplit(tuple(pairs), (), (), 4, 0)
    problem = build_problem(FakeBackend(), split, Settings.of(AUTO))
    words = [words.replace("{options}", "no, yes") for words in VIEW_STARTS_PAIR]
    assert [start.words for start in (problem, *problem.rivals)] == words
    for start in (problem, *problem.rivals):
        assert start.reader.template.uses_pair


def test_a_template_of_ones_own_comes_first_among_the_views() -> None:
    own = "{text} It was {label}"
    problem = build(**AUTO, template=own)
    assert problem.reader.template.source == own
    assert (problem.frame, problem.words) == (None, None)
    assert [start.words for start in problem.rivals] == VIEWS
    assert all(start.frame is not None for start in problem.rivals)
    assert build(**AUTO, template=own, without="words").rivals == ()


def test_without_other_words_the_first_of_the_defaults_is_left() -> None:
    problem = build(**AUTO, without="words")
    assert (problem.words, problem.rivals) == (DEFAULT_STARTS[0], ())


def test_all_starts_share_their_search_dimension() -> None:
    problem = build(recipe="auto", dimension=None, soft_tokens=None)
    frames = [start.frame for start in (problem, *problem.rivals)]
    assert all(frame is not None for frame in frames)
    sizes = {frame.delta.size for frame in frames if frame is not None}
    assert len(sizes) > 1
    dimensions = {frame.subspace.dimension for frame in frames if frame is not None}
    assert dimensions == {min(sizes)}


def test_blocks_follow_the_slots() -> None:
    template = "{text} {soft:2} It was {soft:4} {label}"
    frame = build(template=template, subspace="blocks", dimension=12, soft_tokens=None).frame
    assert frame is not None
    assert frame.described()["subspace"] == "blocks"
    assert frame.delta.groups == (frame.delta.size // 3, 2 * frame.delta.size // 3)
    assert len(frame.subspace.parts) == 2
    assert sum(frame.subspace.parts) == 12


@pytest.mark.parametrize("optimizer", ["divide-and-conquer", "adaptive-allocation"])
def test_optimizers_of_parts_take_blocks_unless_told_otherwise(optimizer: str) -> None:
    given = {"template": "{text} {soft:2} It was {soft:4} {label}", "soft_tokens": None}
    for subspace, parts in ((None, 2), ("gaussian", 1)):
        frame = build(**given, optimizer=optimizer, subspace=subspace).frame
        assert frame is not None
        assert len(frame.subspace.parts) == parts


def test_eggroll_takes_directions_of_low_rank_unless_told_otherwise() -> None:
    template = "{text} {soft:2} It was {soft:4} {label}"
    for subspace, kind in ((None, "low-rank"), ("gaussian", "random")):
        frame = build(
            template=template, soft_tokens=None, optimizer="eggroll", subspace=subspace
        ).frame
        assert frame is not None
        assert frame.subspace.kind == kind
    frame = build(template=template, soft_tokens=None, subspace="low-rank").frame
    assert frame is not None
    assert frame.subspace.config()["shapes"] == [[2, HIDDEN], [4, HIDDEN]]


def test_soft_tokens_cut_the_default_start() -> None:
    backend = FakeBackend()
    table = backend.embedding_table
    assert table is not None
    start = build(backend, soft_tokens=3).frame
    assert start is not None
    words = table.tokenize(DEFAULT_STARTS[0])[:3]
    np.testing.assert_array_equal(start.delta.origin, table.rows(words).reshape(-1))


def test_an_initial_text_knows_new_lines_and_options() -> None:
    one = build(soft_init="text:choose\\n{options}", soft_tokens=None)
    other = build(soft_init="text:choose\naccount, billing, delivery, sales, technical")
    assert one.frame is not None
    assert other.frame is not None
    length = one.frame.delta.slots["soft.0"]
    assert length == 2 + 9  # "choose" is unknown to the model: two pieces; five words, four commas
    assert other.frame.delta.slots["soft.0"] == 3
    np.testing.assert_array_equal(one.frame.delta.origin[: 3 * HIDDEN], other.frame.delta.origin)


def test_slots_may_start_from_words_of_their_own() -> None:
    template = "{text}{soft:2} It was{soft} {label}"
    problem = build(template=template, soft_init="text:so | text:very much")
    assert problem.words == "so | very much"
    assert problem.start is not None
    assert build(template=template, soft_init="text:so").words == "so"
    mixed = build(template=template, soft_init="text:so | random")
    assert mixed.words is None
    assert mixed.start is None


@pytest.mark.parametrize("init", ["random", "zero"])
def test_without_words_to_start_from_the_untuned_model_has_no_delta(init: str) -> None:
    problem = build(soft_init=init)
    assert problem.frame is not None
    assert problem.start is None


def test_a_template_of_ones_own_starts_at_random_rows_that_the_seed_determines() -> None:
    template = "{text} {soft} It is {label}"
    origins = []
    for seed in (0, 0, 1):
        problem = build(template=template, seed=seed)
        assert problem.frame is not None
        assert problem.start is None
        origins.append(problem.frame.delta.origin)
    np.testing.assert_array_equal(origins[0], origins[1])
    assert not np.array_equal(origins[0], origins[2])


@pytest.mark.parametrize("accepts", [{"soft-prompt"}, set()])
def test_without_a_slot_only_the_output_side_is_left(accepts: set[str]) -> None:
    problem = build(FakeBackend(accepts=accepts), template="{text} It is {label}")
    assert problem.frame is None
    assert problem.start is None
    assert problem.delta(np.zeros(20)) is None
    assert not any(isinstance(s, SoftSlot) for p in problem.train.prompts for s in p.segments)


@pytest.mark.parametrize("init", ["text:foo bar", "random", "zero"])
@pytest.mark.parametrize(
    ("accepts", "delta", "advice"),
    [
        ({"soft-prompt"}, "soft-prompt", "write {soft} where the soft prompt is to stand"),
        (set(), "soft-prompt", "write the words that you want into it"),
        ({"soft-prompt", "lora"}, "lora", "write the words that you want into it"),
    ],
)
def test_a_start_that_nothing_reads_is_refused(
    init: str, accepts: set[str], delta: str, advice: str
) -> None:
    backend = FakeBackend(accepts=accepts)
    said = re.escape(f"nothing starts from soft_init = '{init}'") + ".*no {soft} slot; " + advice
    # Braces that the model is to read are no slot.
    for template in ("{text} It is {label}", "{text} {{soft}} It is {label}"):
        with pytest.raises(ConfigError, match=said):
            build(backend, template=template, delta=delta, soft_init=init, soft_tokens=None)


def test_a_prefix_starts_from_words_without_a_slot() -> None:
    verbalizer = Verbalizer.build(TASK.labels, None)

    def starts(init: str) -> list[Start]:
        given = {"template": "{text} It is {label}", "delta": "prefix", "soft_init": init}
        return find_starts(FakeBackend(), Settings.of(given), verbalizer, pairs=False)

    assert [start.words for start in starts("text:so it was")] == ["so it was"]
    with pytest.raises(ConfigError, match="a prefix starts from words alone: text:WORDS"):
        starts("zero")


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
    assert len(build(MaskedLike(), template=template).train) == 10


@pytest.mark.parametrize(
    ("settings", "error", "what"),
    [
        ({"template": "{text} {soft}"}, TemplateError, "label"),
        ({"template": "{text_pair} {text} {soft} {label}"}, TemplateError, "single texts"),
        ({"label_words": {"account": "login"}}, VerbalizerError, "billing"),
        ({"label_words": dict.fromkeys(TASK.labels, "same")}, VerbalizerError, "same"),
        ({"dimension": 49}, ConfigError, "49 is more than the 48"),
        ({"soft_init": "words"}, ConfigError, "cannot start from 'words'"),
        ({"soft_init": "text: "}, ConfigError, "no tokens"),
        ({"subspace": "cauchy"}, ConfigError, "no subspace 'cauchy'.*gaussian, .*sparse"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_asked(
    settings: dict[str, Any], error: type[BlackBoxDeltaError], what: str
) -> None:
    backend = FakeBackend()
    with pytest.raises(error, match=what):
        build(backend, **settings)
    assert backend.calls == 0


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"template": "{text} {soft} It is {label}"}, "use a template without {soft}, or none"),
        ({"soft_init": "random"}, "nothing can start from 'random'; leave soft_init out"),
        ({"soft_init": "zero"}, "nothing can start from 'zero'"),
    ],
)
def test_a_text_only_backend_takes_no_soft_prompt(given: dict[str, Any], what: str) -> None:
    backend = FakeBackend(accepts=frozenset())
    with pytest.raises(UnsupportedError, match=f"takes no soft prompts.*{what}"):
        build(backend, **given)
    assert backend.calls == 0


def words_of(problem: Problem, part: str) -> list[str]:
    """What a model reads, soft slots apart."""
    prompts = getattr(problem, part).prompts
    return ["".join(s.text for s in p.segments if isinstance(s, Words)) for p in prompts]


@pytest.mark.parametrize(
    ("recipe", "words"), [("search", list(DEFAULT_STARTS)), ("auto", VIEWS)], ids=["search", "auto"]
)
@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_text_only_backend_reads_the_default_starts_as_words(
    part: str, recipe: str, words: list[str]
) -> None:
    problem = build(FakeBackend(accepts=frozenset()), recipe=recipe)
    soft = build()
    starts = (problem, *problem.rivals)
    assert [start.words for start in starts] == words
    for start in starts:
        assert start.frame is None
        assert start.start is None
        assert not start.reader.template.slots
        assert start.reader.choices == soft.reader.choices
        np.testing.assert_array_equal(start.train.labels, soft.train.labels)
        # The same words as with a soft prompt that has not moved from where it starts.
        assert words_of(start, part) == [f"{text}{start.words}" for text in words_of(soft, part)]


def test_a_start_of_ones_own_is_read_as_words_too() -> None:
    backend = FakeBackend(accepts=frozenset())
    problem = build(backend, soft_init="text:\\n{{one}} of {options} is")
    assert problem.rivals == ()
    [text, *_] = words_of(problem, "train")
    assert text.endswith("\n{{one}} of account, billing, delivery, sales, technical is")


class Chatty(FakeBackend):
    """Answers a turn of a chat."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, chat=True)


@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_a_chat_is_asked_a_question(recipe: str) -> None:
    problem = build(Chatty(accepts=frozenset()), recipe=recipe)
    assert problem.reader.template.source == default_template(pairs=False, chat=True)
    assert problem.rivals == ()
    assert (problem.frame, problem.words) == (None, None)
    [text, *_] = words_of(problem, "train")
    assert text.endswith(f"\nWhich of these is it: {OPTIONS}? Answer with that word alone.")
    assert problem.reader.choices[0] == " account"
    with pytest.raises(UnsupportedError, match="nothing can start from 'text:It is'"):
        build(Chatty(accepts=frozenset()), soft_init="text:It is")
    own = build(Chatty(accepts=frozenset()), template="{text} Which? {label}")
    assert own.reader.template.source == "{text} Which? {label}"
    assert build(Chatty()).frame is not None


def test_a_request_carries_what_it_is_for() -> None:
    problem = build()
    request = problem.request(problem.dev.prompts, None, 3, "development")
    assert (request.top_k, request.purpose) == (3, "development")
    assert request.choices == problem.reader.choices


def test_content_free_texts_stand_alone_in_templates_of_pairs() -> None:
    template = Template.parse("{text} / {text_pair} = {label}")
    reader = Reader(template, build().reader.verbalizer)
    prompt, *_ = reader.references(make_head("contextual"))
    assert prompt.segments == (Words("N/A", truncatable=True), Words(" /  ="), AnswerSlot())


# ------------------------------------------------------------------ demonstrations

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


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dev": ()}, "lacks one"),
        ({"train": ()}, "lacks one"),
        ({"train": (Example("a", label="x"), Example("b", label="x"))}, "two classes"),
        ({"dev": (Example("a", label="unheard of"),)}, "unheard of"),
        ({"test": (Example("a", "b", SPLIT.train[0].label),)}, "test example 0 is a pair"),
        ({"train": (*SPLIT.train, Example("a", "b", "x"))}, "train example 10 is a pair"),
    ],
)
def test_a_split_that_cannot_be_learnt_from_is_refused(change: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        build_problem(FakeBackend(), replace(SPLIT, **change), Settings.of(SMALL))


def test_auto_can_do_without_development_examples() -> None:
    problem = build_problem(FakeBackend(), replace(SPLIT, dev=()), Settings.of(AUTO))
    assert (len(problem.train), len(problem.dev)) == (10, 0)
    with pytest.raises(DataError, match="lacks one"):
        build_problem(FakeBackend(), replace(SPLIT, train=()), Settings.of(AUTO))


class Broken(FakeBackend):
    """Answers one number too few."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = super().score(request, sink)
        return replace(reply, label_logprobs=reply.label_logprobs[:, :, 1:])


@pytest.mark.parametrize("backend", [FakeBackend(nan_at=[1]), Broken()])
def test_a_broken_reply_is_an_error_and_never_a_score(backend: FakeBackend) -> None:
    problem = build()
    with pytest.raises(BackendError, match="label_logprobs"):
        ask(backend, problem.request(problem.train.prompts, None, 0))
