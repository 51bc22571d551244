"""Words that the model proposes, against a model that says what a script wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import Listening

from blackbox_delta.auto import rewriting
from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.rewriting import MOST_TOKENS, cleaned, propose, rewritten_views
from blackbox_delta.backends._fake_words import FakeEmbeddings
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import SpentError
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Template, draw_split, load_task
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import (
    AnswerSlot,
    Capabilities,
    Example,
    ScoreRequest,
    Scores,
    Sink,
    Words,
)

SPLIT = draw_split(load_task(str(files("blackbox_delta.data") / "support")), 2, 0, 10)
PAIRS = FewShotSplit(
    tuple(Example(f"one {k}", f"two {k}", label) for k in range(3) for label in ("yes", "no")),
    (),
    (),
    3,
    0,
)
TOKENS = (" Kind", " of", " it", "'s", " an", ":", "\n", "", " Why", " so", "?", "ly", "\n\nText")
LINES = (" Kind of:\n", " it's an", " Why so?\n")


class Table:
    """Tokens of the script, in a table that else is the toy model's."""

    def __init__(self, others: FakeEmbeddings) -> None:
        self.rows, self.tokenize = others.rows, others.tokenize
        self.vocabulary_size, self.hidden_size = others.vocabulary_size, others.hidden_size
        self.std = others.std

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return "".join(TOKENS[token] for token in token_ids)


class Scripted(Listening):
    """Goes on with any of the script's lines, and ends each with a token that says nothing."""

    def __init__(self, lines: Sequence[str] = LINES, mass: float = 1.0, **able: bool) -> None:
        super().__init__()
        self._lines, self._mass, self._able = lines, mass, able

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, **self._able)

    @property
    def embedding_table(self) -> Table:
        return Table(self._embeddings)

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores, k = super().score(request, sink), request.top_k
        # As many as were asked for, filled up as the readings of a short reply are.
        top = np.full((1, len(request.prompts), k), np.log(self._mass), np.float32)
        ids = np.broadcast_to(2**31 - 1 - np.arange(k), top.shape).copy()
        for row, prompt in enumerate(request.prompts):
            nexts = self._next(said(prompt).rpartition("\n-")[2])
            ids[0, row, : len(nexts)] = nexts
            top[0, row] -= np.log(len(nexts))
        return replace(scores, top_ids=ids, top_logprobs=top)

    def _next(self, written: str) -> list[int]:
        left = {line[len(written) :] for line in self._lines if line.startswith(written)}
        found = {
            token
            for token, text in enumerate(TOKENS)
            for rest in left
            if (text and rest.startswith(text)) or text == rest
        }
        return sorted(found)


def said(prompt: Any) -> str:
    assert prompt.segments[-1] == AnswerSlot()
    return "".join(each.text for each in prompt.segments if isinstance(each, Words))


def problem_of(backend: FakeBackend, split: FewShotSplit = SPLIT, **given: Any) -> Problem:
    return build_problem(backend, split, Settings.of(given))


def asker_of(backend: FakeBackend, problem: Problem, budget: str = "9000 queries") -> Asker:
    head = make_head("anchored", backend.capabilities.max_top_k)
    return Asker(backend, problem, head, Budget.parse(budget))


def proposed(backend: FakeBackend, count: int = 5, seed: int = 0, **given: Any) -> list[str]:
    problem = problem_of(backend, **given)
    return propose(asker_of(backend, problem), problem, count, np.random.default_rng(seed))


# ----------------------------------------------------------------------- what is proposed


def test_lines_are_read_token_by_token_and_cleaned() -> None:
    backend = Scripted()
    assert set(proposed(backend)) == {"\nKind of:", "\nit's an", "\nWhy so? Answer:"}
    # " Kind", " of", ":" and a new line are one request each; the others end no later.
    assert [len(request.prompts) for request in backend.requests] == [1, 3, 3, 3]
    assert {request.delta for request in backend.requests} == {None}
    assert {request.purpose for request in backend.requests} == {"rewritings"}


def test_no_more_lines_than_asked_for_and_each_begins_otherwise() -> None:
    for seed in range(5):
        two = proposed(Scripted(), count=2, seed=seed)
        assert len({words.split()[0] for words in two}) == 2
    assert proposed(Scripted(), count=0) == []


def test_a_seed_determines_what_is_proposed() -> None:
    once, again, other = (Scripted() for _ in range(3))
    assert proposed(once, 2, seed=3) == proposed(again, 2, seed=3)
    proposed(other, 2, seed=4)
    asked = [[said(p) for r in each.requests for p in r.prompts] for each in (once, again, other)]
    assert asked[0] == asked[1] != asked[2]


def test_likelier_lines_come_oftener() -> None:
    class Partial(Scripted):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            scores = super().score(request, sink)
            likely = scores.top_ids == TOKENS.index(" it")
            top = np.where(likely, -0.1, scores.top_logprobs - 1.5).astype(np.float32)
            return replace(scores, top_logprobs=top)

    drawn = [proposed(Partial(), count=1, seed=seed)[0] for seed in range(60)]
    # exp(-0.1 / T) against two of exp((-log 3 - 1.5) / T), T = 0.8: 93 of 100.
    assert 0.8 < drawn.count("\nit's an") / 60 < 1


def test_the_question_shows_each_class_once_and_lists_the_pool() -> None:
    backend = Scripted()
    problem = problem_of(backend)
    proposed(backend)
    [question] = map(said, backend.requests[0].prompts)
    words = problem.reader.verbalizer.words
    assert sorted(
        line.removeprefix("Answer: ")
        for line in question.splitlines()
        if line.startswith("Answer: ")
    ) == sorted(words)
    texts = {" ".join(each.text.split()[: rewriting.SHOWN_WORDS]) for each in SPLIT.train}
    shown = [line[6:] for line in question.splitlines() if line.startswith("Text: ")]
    assert len(shown) == len(words)
    assert texts.issuperset(shown)
    for start in (problem, *problem.rivals):
        assert f"\n- {str(start.words).strip()}\n" in question
    assert question.endswith("\n-")


def test_both_texts_of_a_pair_are_shown() -> None:
    backend = Scripted()
    assert proposed(backend, split=PAIRS)
    question = said(backend.requests[0].prompts[0])
    assert question.count("Text: one") == question.count("\nText: two") == 2


def test_what_the_pool_has_already_is_not_proposed_again() -> None:
    # " IT was" differs from the pool's "It was" in capitals alone.
    assert rewriting._new(
        ["IT was", "Subject:", "subject", "", "category"], ["\nIt was", "\nCategory:"]
    ) == ["Subject:"]


def test_a_line_without_end_is_cut() -> None:
    backend = Scripted([" so" * 40])
    assert proposed(backend, 3) == ["\n" + " ".join(["so"] * MOST_TOKENS)]
    assert len(backend.requests) == MOST_TOKENS


# ------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (' "It is, ', "It is"),
        ("- Kind of thing :", "Kind of thing :"),
        (" Answer: Positive.", "Answer:"),
        (" This is not bad", "This is"),
        (" positivity", "positivity"),
        (" positive", ""),
        (" 1.", ""),
        (" caf\N{REPLACEMENT CHARACTER}", ""),
        (" What is it ?", "What is it? Answer:"),
        (" ?", ""),
        ("", ""),
    ],
)
def test_cleaned(line: str, words: str) -> None:
    assert cleaned(line, ("positive", "not bad", "a+")) == words


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_whatever_is_cleaned_fits_a_template(line: str) -> None:
    words = cleaned(line, ("good", "bad"))
    assert words == "" or words[-1] == ":" or words[-1].isalnum() or words[-1] == "_"
    assert "\n" not in words
    source = in_words("Text: {text}{soft} {label}", "\n" + words)
    # A backslash followed by n is a template's own way to write a new line.
    prompt = Template.parse(source).render(Example("one"), ("good", "bad"))
    assert said(prompt).startswith("Text: one")
    if "\\n" not in words:
        assert said(prompt) == f"Text: one\n{words}"


# ------------------------------------------------------------------------- what it takes


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_takes_no_more_than_it_says(count: int) -> None:
    backend = Scripted([f" {start}" + " so" * 40 for start in ("of", "it", "Why")])
    problem = problem_of(backend)
    asker = asker_of(backend, problem)
    rng = np.random.default_rng(0)
    assert len(propose(asker, problem, count, rng)) == count
    spent = asker.budget.usage
    assert spent.queries == 1 + (MOST_TOKENS - 1) * count <= count * MOST_TOKENS
    assert len(backend.requests) == MOST_TOKENS
    for unit, taken in (("queries", spent.queries), ("tokens", spent.tokens)):
        enough, short = (
            asker_of(backend, problem, f"{limit} {unit}") for limit in (taken, taken - 1)
        )
        assert len(propose(enough, problem, count, np.random.default_rng(0))) == count
        assert propose(short, problem, count, np.random.default_rng(0)) == []
        assert short.budget.usage.queries == 0


def test_it_stops_where_more_tokens_are_read_than_were_drawn() -> None:
    class Dear(Scripted):
        def count_tokens(self, request: ScoreRequest) -> Any:
            written = [said(p).rpartition("\n-")[2] for p in request.prompts]
            return super().count_tokens(request) + [50 * len(text) for text in written]

    backend = Dear([" so" * 40])
    problem = problem_of(backend)
    free, rng = asker_of(backend, problem), np.random.default_rng(0)
    question = rewriting._question(problem, rng)
    writer = rewriting._Writer(free, problem.reader, backend.embedding_table, question, rng)
    limit = writer.need(1).tokens
    asker = asker_of(backend, problem, f"{limit} tokens")
    [words] = propose(asker, problem, 1, np.random.default_rng(0))
    assert 1 < len(words.split()) < MOST_TOKENS
    assert asker.budget.usage.tokens <= limit


def test_lost_replies_are_charged_and_passed_on() -> None:
    class Losing(Scripted):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            if len(self.requests) == 2:
                raise SpentError("lost", sent=3)
            return super().score(request, sink)

    backend = Losing()
    problem = problem_of(backend)
    asker = asker_of(backend, problem)
    with pytest.raises(SpentError):
        propose(asker, problem, 3, np.random.default_rng(0))
    assert asker.budget.usage.queries == 1 + 3 + 3


# -------------------------------------------------------------------- where there is nothing


@pytest.mark.parametrize(
    "able", [{"chat": True}, {"decoder_slot": True}, {"text_after_answer": True}]
)
def test_a_model_that_does_not_go_on_with_words_is_not_asked(able: dict[str, bool]) -> None:
    problem = problem_of(Scripted())
    backend = Scripted(LINES, 1.0, **able)
    assert propose(asker_of(backend, problem), problem, 3, np.random.default_rng(0)) == []
    assert not backend.requests


def test_without_a_table_nothing_is_asked() -> None:
    backend = FakeBackend(accepts=())
    assert proposed(backend) == []
    assert backend.calls == 0


def test_without_top_tokens_nothing_is_asked() -> None:
    backend = Scripted()
    problem = problem_of(backend)
    asker = Asker(backend, problem, make_head("calibrated"), Budget(1000, "queries"))
    assert propose(asker, problem, 3, np.random.default_rng(0)) == []
    assert not backend.requests


def test_the_users_own_words_stay() -> None:
    backend = Scripted()
    assert proposed(backend, soft_init="text:\nIt is") == []
    assert not backend.requests


def test_beside_the_users_own_template_words_go_into_the_default_one() -> None:
    backend = Scripted()
    problem = problem_of(backend, template="Say it: {text} {label}")
    views = rewritten_views(asker_of(backend, problem), problem, 5, seed=0)
    assert {view.name for view in views} == {"Kind of:", "it's an", "Why so? Answer:"}
    assert "Text: {text}\nKind of: {label}" in {view.reader.template.source for view in views}


def test_tokens_near_the_label_words_are_no_line() -> None:
    """A server may tell these in place of the likeliest: they are all unlikely here."""
    backend = Scripted(mass=0.02)
    assert proposed(backend) == []
    assert [len(request.prompts) for request in backend.requests] == [1]


# ----------------------------------------------------------------------------------- views


def test_views_can_be_asked_and_shown_examples() -> None:
    from blackbox_delta.auto.views import demonstrated

    backend = FakeBackend()
    problem = problem_of(backend)
    asker = asker_of(backend, problem)
    views = rewritten_views(asker, problem, 4, seed=1)
    assert 0 < len(views) <= 4
    assert len({view.name for view in views}) == len(views)
    for view in views:
        assert view.delta is None
        assert not view.reader.template.slots
        assert view.start is not None
        assert view.start.words == "\n" + view.name
        assert said(view.start.train.prompts[0]).endswith(f"\n{view.name}")
        assert view.start.train.prompts == view.reader.prompts(SPLIT.train)
        np.testing.assert_array_equal(view.rows, np.arange(len(SPLIT.train)))
        seen = asker.fresh(view)
        asker.ask(seen, view.rows, references=True, purpose="views")
        assert np.isfinite(seen.held_out[seen.rows]).all()
    bigger = problem_of(
        backend, draw_split(load_task(str(files("blackbox_delta.data") / "support")), 4, 0)
    )
    [again, *_] = rewritten_views(asker_of(backend, bigger), bigger, 4, seed=1)
    assert again.start is not None
    [shown] = demonstrated(backend, again.start, np.random.default_rng(0), 1)
    assert again.name in shown.name


def test_another_seed_finds_other_views() -> None:
    backend = FakeBackend()
    problem = problem_of(backend)
    names = [
        [view.name for view in rewritten_views(asker_of(backend, problem), problem, 4, seed)]
        for seed in (1, 1, 2)
    ]
    assert names[0] == names[1] != names[2]
