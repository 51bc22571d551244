"""The pool of views: who is shown where, what the model reads, and when nobody is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TEXT_ONLY, Planted, around, examples, problem_of, said, split

from blackbox_delta.api import tune
from blackbox_delta.auto.views import (
    DRAWS,
    MAX_SHOWN_TOKENS,
    SHOWN_PER_CLASS,
    SHOWN_SHARE,
    View,
    demonstrated,
    pool_of_views,
)
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import TemplateError
from blackbox_delta.problem import Problem
from blackbox_delta.tasks import VIEW_STARTS, VIEW_STARTS_PAIR, FewShotSplit
from blackbox_delta.types import Capabilities, Example, IntArray, ScoreRequest

WORDS = "\nIn one word, it is"


def views_of(
    data: FewShotSplit, seed: int = 0, backend: Planted | None = None, **given_settings: object
) -> tuple[Problem, list[View]]:
    backend = backend or Planted()
    problem = problem_of(backend, data, **given_settings)
    return problem, pool_of_views(backend, problem, seed)


def shown_of(problem: Problem, view: View) -> list[int]:
    """Rows of the examples that stand in a view's prompts, found by their texts."""
    (prompt,) = view.reader.prompts([Example("nothing", problem.train.examples[0].text_pair)])
    read = said(prompt)
    return [row for row, each in enumerate(problem.train.examples) if each.text in read]


def showing(views: Sequence[View]) -> list[View]:
    return [view for view in views if "demonstrations" in view.name]


def all_draws(views: Sequence[View]) -> list[View]:
    """Those that show examples, which must be as many as are drawn."""
    found = showing(views)
    assert len(found) == DRAWS
    return found


def texts(*pairs: tuple[str, str]) -> FewShotSplit:
    train = tuple(Example(text, label=label) for text, label in pairs)
    return FewShotSplit(train, (), (), 1, 0)


# ------------------------------------------------------------------------- who is shown


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    seed=st.integers(0, 50),
)
def test_nobody_is_both_shown_and_learnt_from_nor_shown_twice(sizes: list[int], seed: int) -> None:
    problem, views = views_of(split(sizes), seed)
    everyone = list(range(sum(sizes)))
    ever: list[int] = []
    for view in views:
        shown = shown_of(problem, view)
        assert sorted([*shown, *view.rows.tolist()]) == everyone
        ever += shown
        counts = np.bincount(problem.train.labels[shown], minlength=len(sizes))
        assert len(set(counts)) == 1, "as many of every class"
        assert counts[0] <= min(SHOWN_PER_CLASS, SHOWN_SHARE * min(sizes))
    assert len(ever) == len(set(ever))
    assert len(showing(views)) == (0 if min(sizes) < 4 else DRAWS)
    assert bool(ever) == bool(showing(views))


def test_by_seed_others_are_shown_and_nothing_else_changes() -> None:
    def described(seed: int) -> list[tuple[str, str, list[int]]]:
        _, views = views_of(split([16, 16]), seed)
        return [(view.name, view.reader.template.source, view.rows.tolist()) for view in views]

    assert described(3) == described(3)
    one, other = described(3), described(4)
    plain = [each for each in one if "demonstrations" not in each[0]]
    assert plain == [each for each in other if "demonstrations" not in each[0]]
    assert not any(each in other for each in one if "demonstrations" in each[0])


def test_who_is_shown_does_not_hang_on_what_they_are_called() -> None:
    """Each class draws from its own examples alone, so another text moves nobody."""
    train = examples([8, 8])
    changed = [replace(each, text=f"other {each.text}") for each in train]
    rows = []
    for part in (train, changed):
        _, views = views_of(FewShotSplit(tuple(part), (), (), 8, 0))
        rows.append([view.rows.tolist() for view in views])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("shots", "each"), [(1, 0), (2, 0), (3, 0), (4, 1), (7, 1), (8, 2), (15, 3), (16, 4), (40, 4)]
)
def test_demonstrations_take_a_quarter_of_a_class_and_four_at_most(shots: int, each: int) -> None:
    problem, views = views_of(split([shots, shots, shots]))
    found = showing(views)
    assert len(found) == (DRAWS if each else 0)
    assert all(len(shown_of(problem, view)) == 3 * each for view in found)


def test_no_class_has_the_last_word_on_its_own() -> None:
    """The classes take turns in every prompt."""
    problem, views = views_of(split([16, 16]))
    for view in all_draws(views):
        (prompt,) = view.reader.prompts([Example("nothing")])
        read = said(prompt)
        order = sorted(
            shown_of(problem, view), key=lambda row: read.index(problem.train.examples[row].text)
        )
        labels = problem.train.labels[order]
        assert labels.tolist() == [labels[0], 1 - labels[0]] * 4


def test_rounds_show_others_and_keep_the_words() -> None:
    backend = Planted()
    problem = problem_of(backend, split([16, 16]))
    one, other = (
        demonstrated(backend, problem.rivals[0], np.random.default_rng(seed), 3) for seed in (1, 2)
    )
    assert len(one) == len(other) == 3
    assert not {view.name for view in one} & {view.name for view in other}
    assert problem.rivals[0].words is not None
    for view in (*one, *other):
        assert view.reader.template.source.endswith(f"{{text}}{problem.rivals[0].words} {{label}}")
        assert view.start is None


def test_without_demonstrations_the_plain_views_are_left() -> None:
    backend = Planted()
    problem = problem_of(backend, split([16, 16]))
    views = pool_of_views(backend, problem, 0, demonstrations=False)
    assert [view.name for view in views] == [
        words.strip().replace("{options}", "class0, class1") for words in VIEW_STARTS
    ]


# ------------------------------------------------------------------------- when nobody is


def test_chats_get_no_demonstrations() -> None:
    chat = Planted(capabilities=replace(TEXT_ONLY, chat=True))
    _, views = views_of(split([16, 16]), backend=chat)
    assert len(views) == 1
    assert not showing(views)


@pytest.mark.parametrize(("words", "each"), [(40, 4), (200, 2), (400, 1), (600, 0)])
def test_demonstrations_take_no_more_tokens_than_they_may(words: int, each: int) -> None:
    """Of two classes; texts of one length, where the mean that is gone by is theirs exactly."""
    train = [
        replace(example, text=f"{'long ' * (words - 4)}{example.text}")
        for example in examples([16, 16])
    ]
    backend = Planted()
    problem, views = views_of(FewShotSplit(tuple(train), (), (), 16, 0), backend=backend)
    lead = showing(views)
    assert [len(shown_of(problem, view)) for view in lead] == ([2 * each] * DRAWS if each else [])
    for view in lead:
        test = [Example("x")]
        both = [
            int(backend.count_tokens(ScoreRequest(reader.prompts(test), ("a", "b")))[0])
            for reader in (view.reader, problem.reader)
        ]
        assert both[0] - both[1] <= MAX_SHOWN_TOKENS


def test_a_slot_without_words_gets_no_demonstrations() -> None:
    """Nobody can write a soft prompt of random tokens before a text."""
    backend = FakeBackend()
    problem = problem_of(
        backend, split([8, 8]), template="Text: {text}{soft} It is {label}", soft_init="random"
    )
    assert demonstrated(backend, problem, np.random.default_rng(0), DRAWS) == []


def test_77_classes_show_one_of_each_where_that_fits() -> None:
    problem, views = views_of(split([4] * 77))
    lead = showing(views)
    assert len(lead) == DRAWS
    assert all(len(shown_of(problem, view)) == 77 for view in lead)
    long = [replace(each, text=f"{'and ' * 8}{each.text}") for each in problem.train.examples]
    _, views = views_of(FewShotSplit(tuple(long), (), (), 4, 0))
    assert showing(views) == []


def test_a_class_with_one_example_lends_it_to_nobody() -> None:
    _, views = views_of(split([16, 1]))
    assert showing(views) == []
    assert all(view.rows.tolist() == list(range(17)) for view in views)


# ------------------------------------------------------------------------- what the model reads


def read_in(view: View, example: Example) -> str:
    (prompt,) = view.reader.prompts([example])
    return said(prompt)


def by_hand(problem: Problem, view: View, fill: Callable[[Example], str], text: str) -> str:
    """The demonstrations in the order of the prompt, each filled in, then the text to be read."""
    read = read_in(view, Example("nothing", problem.train.examples[0].text_pair))
    order = sorted(
        shown_of(problem, view), key=lambda row: read.index(problem.train.examples[row].text)
    )
    return "".join(fill(problem.train.examples[row]) + "\n\n" for row in order) + text


ODD = (
    "braces {text} and {{label}} and }{",
    "two\nlines\n\nand more",
    "a path C:\\Users\\{soft}",
    "ünïcödé 日本語 \u2028 end",
    "{",
    "percent %s $1 \\1",
    "tab\tand  two spaces",
    "…",
)


def test_odd_texts_are_shown_as_they_are() -> None:
    pairs = [(f"{text} #{k}{i}", "ab"[k]) for i, text in enumerate(ODD) for k in range(2)]
    problem, views = views_of(texts(*pairs))
    lead = showing(views)
    assert len(lead) == DRAWS
    for view in lead:
        expected = by_hand(
            problem,
            view,
            lambda each: f"Text: {each.text}{WORDS} {each.label}",
            f"Text: any {{text}}{WORDS}",
        )
        assert read_in(view, Example("any {text}")) == expected


def test_a_backslash_before_an_n_is_no_new_line() -> None:
    pairs = [(f"C:\\new folder {i}{k}", "ab"[k]) for i in range(8) for k in range(2)]
    _, views = views_of(texts(*pairs))
    for view in all_draws(views):
        assert read_in(view, Example("any")).count("C:\\new folder") == 4


def test_pairs_are_shown_as_pairs() -> None:
    train = tuple(
        Example(f"first {i}{k}.", f"second {i}{k}.", "ab"[k]) for i in range(8) for k in range(2)
    )
    problem, views = views_of(FewShotSplit(train, (), (), 8, 0))
    assert len(views) == len(VIEW_STARTS_PAIR) + DRAWS
    for view in all_draws(views):
        expected = by_hand(
            problem,
            view,
            lambda each: f"Text: {each.text}\nText: {each.text_pair}{WORDS} {each.label}",
            f"Text: one\nText: other{WORDS}",
        )
        assert read_in(view, Example("one", "other")) == expected


def test_label_words_that_are_sentences_are_shown_whole() -> None:
    words = {"class0": "It is {rather} good, is it not?", "class1": "No: not at all."}
    problem, views = views_of(split([8, 8]), label_words=words)
    for view in all_draws(views):
        expected = by_hand(
            problem,
            view,
            lambda each: f"Text: {each.text}{WORDS} {words[str(each.label)]}",
            f"Text: any{WORDS}",
        )
        assert read_in(view, Example("any")) == expected
    last = views[-1]
    assert read_in(last, Example("any")) == f"Text: any\nIs it {', '.join(words.values())}? It is"


SEQ2SEQ = Capabilities(frozenset(), True, True, 8)


@pytest.mark.parametrize(
    ("template", "filled", "read"),
    [
        ("Q: {text} A: {label}", "Q: {text} A: {label}", "Q: any A:"),
        ("{text}\\nIs it {options}?{label}", "{text}\nIs it a, b?{label}", "any\nIs it a, b?"),
        ("{text} It is {label} .", "{text} It is {label} .", "any It is"),
        ("{text} It {decoder}is {label}", "{text} It is {label}", "any Itis"),
    ],
)
def test_own_templates_are_filled_in(template: str, filled: str, read: str) -> None:
    pairs = [(f"text {i}{k}!", "ab"[k]) for i in range(8) for k in range(2)]
    backend = Planted(capabilities=SEQ2SEQ)
    problem, views = views_of(texts(*pairs), backend=backend, template=template)
    lead = [view for view in showing(views) if view.reader.template.source.endswith(template)]
    assert lead
    for view in lead:
        expected = by_hand(
            problem,
            view,
            lambda each: filled.format(text=each.text, label=each.label),
            read,
        )
        assert read_in(view, Example("any")) == expected


@pytest.mark.parametrize("slot", ["{soft}", "{soft:4}"])
def test_words_stand_in_the_slot_of_demonstrations(slot: str) -> None:
    backend = FakeBackend()
    pairs = [(f"text {i}{k}!", "ab"[k]) for i in range(8) for k in range(2)]
    problem = problem_of(
        backend,
        texts(*pairs),
        template=f"Text: {{text}}{slot} {{label}}",
        soft_init="text: and so it is",
        dimension=8,
    )
    found = demonstrated(backend, problem, np.random.default_rng(0), DRAWS)
    assert len(found) == DRAWS
    for view in found:
        expected = by_hand(
            problem,
            view,
            lambda each: f"Text: {each.text} and so it is {each.label}",
            "Text: any and so it is",
        )
        assert read_in(view, Example("any")) == expected
        assert not view.reader.template.slots


# ------------------------------------------------------------------------- the order


def test_the_default_view_comes_first_and_kinds_take_turns() -> None:
    problem, views = views_of(split([16, 16]))
    assert views[0].name == WORDS.strip()
    assert read_in(views[0], Example("any")) == f"Text: any{WORDS}"
    kinds = ["demonstrations" in view.name for view in views]
    assert kinds[: 1 + 2 * DRAWS] == [False, *([True, False] * DRAWS)]
    assert not any(kinds[1 + 2 * DRAWS :])
    assert len({view.name for view in views}) == len(views)
    assert views[0].start is problem


def test_soft_slots_start_from_their_words() -> None:
    """At z = 0 the slot holds the embeddings of the words, so it reads like the words."""
    backend = FakeBackend()
    problem = problem_of(backend, split([8, 8]), dimension=8)
    views = pool_of_views(backend, problem, 0)
    plain = [view for view in views if view.start is not None]
    assert len(plain) == len(VIEW_STARTS)
    for view in plain:
        assert view.delta is not None
        assert view.z is not None
        assert not view.z.any()
        (soft,) = view.delta.tensors.values()
        tokens = backend.embedding_table.tokenize(view.name)
        np.testing.assert_array_equal(soft[0], backend.embedding_table.rows(tokens))
    assert all(view.delta is None for view in views if view.start is None)


def test_asks_nothing() -> None:
    backend = Planted()
    views_of(split([16, 16]), backend=backend)
    assert backend.calls == 0


# ------------------------------------------------------------------------- short contexts


class Short(Planted):
    """A model with a context: texts are cut to it, words that exceed it are an error."""

    def __init__(self, context: int) -> None:
        super().__init__(capabilities=replace(TEXT_ONLY, max_length=context))

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        context = self.capabilities.max_length or 0
        if any(1 + len(around(prompt).split()) > context for prompt in request.prompts):
            raise TemplateError("longer than the context")
        return np.minimum(super().count_tokens(request), context)


@pytest.mark.parametrize(
    ("context", "each"), [(32, 0), (64, 0), (70, 1), (140, 2), (160, 3), (256, 4)]
)
def test_demonstrations_leave_half_of_the_context_to_the_text(context: int, each: int) -> None:
    """Of two classes; a text with its template and label has 11 tokens, and one more is asked."""
    problem, views = views_of(split([16, 16]), backend=Short(context))
    assert {len(shown_of(problem, view)) for view in showing(views)} == {2 * each} - {0}
    assert len(views) == len(VIEW_STARTS) + (DRAWS if each else 0)


def test_words_that_exceed_the_context_make_no_view() -> None:
    """'Is it {options}? It is' lists all label words; the others do not."""
    _, views = views_of(split([1] * 40), backend=Short(64))
    assert len(views) == len(VIEW_STARTS) - 1
    assert not any("class7" in view.name for view in views)


def test_nobody_shows_an_example_of_many_times_the_usual_length() -> None:
    data = split([16, 16])
    long = replace(data.train[0], text=f"{'very ' * 2000}{data.train[0].text}")
    problem, views = views_of(replace(data, train=(long, *data.train[1:])))
    lead = showing(views)
    assert lead
    assert not any(0 in shown_of(problem, view) for view in lead)


def test_a_run_on_a_short_context_asks_what_fits() -> None:
    backend = Short(64)
    result = tune(backend, split([16, 16], test=2), budget="16").result
    assert result["views"]
    assert all(backend.count_tokens(request).max() <= 64 for request in backend.requests)
