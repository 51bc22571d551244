"""What a run may start from."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from posing import AUTO, HIDDEN, TASK, UNSEARCHED, build

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import ConfigError, UnsupportedError
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.problem.starts import Start, find_starts
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    VIEW_STARTS,
    VIEW_STARTS_PAIR,
    FewShotSplit,
    Verbalizer,
    default_template,
)
from blackbox_delta.types import Capabilities, Example, Words


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
    assert build(**AUTO, template=own, without="words", **UNSEARCHED).rivals == ()


def test_without_other_words_the_first_of_the_defaults_is_left() -> None:
    problem = build(**AUTO, without="words")
    assert (problem.words, problem.rivals) == (DEFAULT_STARTS[0], ())


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
    problem = build(FakeBackend(accepts=frozenset()), recipe=recipe, **UNSEARCHED)
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
    problem = build(backend, soft_init="text:\\n{{one}} of {options} is", **UNSEARCHED)
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
    problem = build(Chatty(accepts=frozenset()), recipe=recipe, **UNSEARCHED)
    assert problem.reader.template.source == default_template(pairs=False, chat=True)
    assert problem.rivals == ()
    assert (problem.frame, problem.words) == (None, None)
    [text, *_] = words_of(problem, "train")
    assert text.endswith(f"\nWhich of these is it: {OPTIONS}? Answer with that word alone.")
    assert problem.reader.choices[0] == " account"
    with pytest.raises(UnsupportedError, match="nothing can start from 'text:It is'"):
        build(Chatty(accepts=frozenset()), soft_init="text:It is")
    own = build(Chatty(accepts=frozenset()), template="{text} Which? {label}", **UNSEARCHED)
    assert own.reader.template.source == "{text} Which? {label}"
    assert build(Chatty()).frame is not None
