"""Asking: what is asked, what is charged, and that nobody's own label is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import Planted, asker_of, bare_problem, examples, problem_of, split, worded

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.views import View, pool_of_views
from blackbox_delta.budget import Budget
from blackbox_delta.errors import BackendError, SpentError
from blackbox_delta.heads import discriminant, make_head, weighing
from blackbox_delta.problem import Problem
from blackbox_delta.types import Evidence, ScoreRequest, Scores, Sink


def asked(asker: Asker, view: View, *, references: bool = True) -> Seen:
    seen = asker.fresh(view)
    asker.ask(seen, view.rows, references=references, purpose="views")
    return seen


def evidence_of(backend: Planted, view: View, problem: Problem, rows: np.ndarray) -> Evidence:
    prompts = view.reader.prompts([problem.train.examples[row] for row in rows])
    request = ScoreRequest(prompts, view.reader.choices, top_k=backend.capabilities.max_top_k)
    return backend.score(request).candidate(0)


# ------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3], [4, 5]], [[7, 2, 5, 0], [1, 2, 3, 7]]])
def test_an_example_is_asked_about_once_and_only_where_it_may_be(parts: list[list[int]]) -> None:
    backend, problem = Planted(), bare_problem([5, 5])
    asker = asker_of(backend, problem, head="discriminant")
    view = worded(problem, "It is", np.array([0, 1, 2, 3, 4, 5, 7]))
    seen = asker.fresh(view)
    wanted: set[int] = set()
    for part in parts:
        asker.ask(seen, np.array(part), references=True, purpose="views")
        wanted |= set(part)
        assert set(seen.rows.tolist()) == wanted
        assert set(np.flatnonzero(np.isfinite(seen.held_out).all(axis=1))) == wanted
    asker.ask(seen, np.arange(10), references=True, purpose="views")
    assert sorted(seen.rows) == view.rows.tolist()
    assert set(backend.asked.values()) == {1}
    before = backend.calls
    asker.ask(seen, np.arange(10), references=True, purpose="views")
    assert backend.calls == before


def test_evidence_stands_in_the_order_of_its_rows() -> None:
    backend, problem = Planted(), bare_problem([6, 6])
    asker, view = asker_of(backend, problem, head="discriminant"), worded(problem, "It is")
    seen = asker.fresh(view)
    for part in ([9, 3, 4, 0], [11, 1], [2, 5, 6, 7, 8, 10]):
        asker.ask(seen, np.array(part), references=True, purpose="views")
    expected = evidence_of(backend, view, problem, seen.rows)
    assert seen.evidence is not None
    np.testing.assert_array_equal(seen.evidence.label_logprobs, expected.label_logprobs)
    at_once = asked(asker, view)
    np.testing.assert_allclose(seen.held_out, at_once.held_out, atol=1e-6)
    losses = at_once.losses(problem.train.labels)
    truth = problem.train.labels
    assert losses.tolist() == [-at_once.held_out[i, truth[i]] for i in range(12)]


def test_held_out_predictions_are_those_of_the_head_by_hand() -> None:
    backend, problem = Planted(), bare_problem([6, 6])
    asker = asker_of(backend, problem)
    view = worded(problem, "It is", np.arange(2, 12))
    seen = asked(asker, view)
    head = make_head("anchored", backend.capabilities.max_top_k)
    texts = view.reader.references(head)
    assert len(texts) == 8
    reference = backend.score(ScoreRequest(texts, view.reader.choices, top_k=head.top_k))
    known = evidence_of(backend, view, problem, view.rows)
    labels = problem.train.labels[2:]
    expected = head.held_out(known, labels, reference.candidate(0))
    np.testing.assert_allclose(seen.held_out[2:], expected, atol=1e-9)
    assert np.isnan(seen.held_out[:2]).all()
    unseen = evidence_of(backend, view, problem, np.array([0, 1]))
    np.testing.assert_allclose(
        asker.fitted(seen).log_proba(unseen),
        head.fit(known, labels, reference.candidate(0)).log_proba(unseen),
    )


def test_references_may_come_later_and_make_it_the_same() -> None:
    backend, problem = Planted(), bare_problem([6, 6])
    asker, view = asker_of(backend, problem), worded(problem, "It is")
    late, early = asker.fresh(view), asked(asker, view)
    asker.ask(late, view.rows, references=False, purpose="views")
    assert late.reference is None
    without = late.held_out.copy()
    asker.ask(late, view.rows, references=True, purpose="views")
    np.testing.assert_array_equal(late.held_out, early.held_out)
    assert not np.allclose(without, late.held_out)


def test_as_of_a_part_it_is_what_that_part_alone_tells() -> None:
    problem = bare_problem([6, 6])
    asker = asker_of(Planted(), problem)
    view, rows = worded(problem, "It is", np.arange(1, 12)), np.array([0, 1, 3, 4, 6, 7])
    whole, part = asked(asker, view), asker.fresh(view)
    asker.ask(part, rows, references=True, purpose="views")
    before = asker.budget.usage
    np.testing.assert_allclose(asker.as_of(whole, rows).held_out, part.held_out, atol=1e-9)
    assert asker.as_of(whole, np.arange(12)) is whole
    assert asker.budget.usage == before


def test_what_a_view_was_tuned_on_stays_unknown() -> None:
    problem = bare_problem([6, 6])
    asker = asker_of(Planted(), problem)
    whole = asked(asker, worded(problem, "It is", np.arange(12)))
    tuned_on = np.array([0, 2, 7])
    whole.held_out[tuned_on] = np.nan
    rows = np.arange(8)
    part = asker.as_of(whole, rows)
    known = np.isfinite(part.held_out[:, 0])
    np.testing.assert_array_equal(np.flatnonzero(known), np.setdiff1d(rows, tuned_on))
    said = asker.answers(part, whole, np.array([7, 8, 9]))
    np.testing.assert_array_equal(np.isfinite(said[:, 0]), [False, True, True])


# ------------------------------------------------------------------------- what is charged


@pytest.mark.parametrize("references", [False, True])
def test_what_it_takes_is_what_is_charged(*, references: bool) -> None:
    able = replace(Planted().capabilities, output_tokens=3)
    backend, problem = Planted(capabilities=able), bare_problem([6, 6])
    asker = asker_of(backend, problem)
    view = worded(problem, "It is", np.arange(3, 12))
    need = asker.need(view, view.rows, references=references)
    assert need.queries == 9 + (8 if references else 0)
    asked(asker, view, references=references)
    usage = asker.budget.usage
    assert usage == backend.usage
    assert need.usage == replace(usage, computed_tokens=0, seconds=0.0)


class Losing(Planted):
    """Gives up for good after so many queries, which may be billed all the same."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if self.calls:
            raise SpentError("too many were lost", 5, 3)
        return super().score(request, sink)


def test_queries_sent_in_vain_are_charged() -> None:
    backend, problem = Losing(), bare_problem([6, 6])
    asker, view = asker_of(backend, problem), worded(problem, "It is")
    seen = asker.fresh(view)
    asker.ask(seen, np.arange(4), references=False, purpose="views")
    before, known = asker.budget.usage, seen.held_out.copy()
    with pytest.raises(SpentError):
        asker.ask(seen, np.arange(12), references=False, purpose="views")
    assert asker.budget.usage.queries == before.queries + 2
    assert asker.budget.usage.lost == 3
    # All texts have as many tokens here.
    each = before.tokens / before.queries
    assert asker.budget.usage.tokens == before.tokens + 5 * each
    np.testing.assert_array_equal(seen.held_out, known)


def test_no_more_may_be_sent_than_is_left() -> None:
    backend, problem = Planted(), bare_problem([6, 6])
    asker = asker_of(backend, problem, budget=20)
    seen = asker.fresh(worded(problem, "It is"))
    for part in (np.arange(4), np.arange(12)):
        asker.ask(seen, part, references=False, purpose="views")
    assert [request.max_sent for request in backend.requests] == [20, 16]
    asker.budget = Budget(3)
    asker.budget.call_size = 12
    seen = asker.fresh(worded(problem, "It is"))
    asker.ask(seen, np.arange(6), references=False, purpose="views")
    asker.ask(seen, np.arange(12), references=False, purpose="views")
    assert [request.max_sent for request in backend.requests[2:]] == [36, 30]
    assert asker.budget.calls == 1.0


def test_a_failed_request_leaves_everything_as_it_was() -> None:
    backend, problem = Planted(fail_at={2}), bare_problem([6, 6])
    asker = asker_of(backend, problem, head="discriminant")
    seen = asker.fresh(worded(problem, "It is"))
    asker.ask(seen, np.arange(6), references=True, purpose="views")
    usage = asker.budget.usage
    with pytest.raises(BackendError):
        asker.ask(seen, np.arange(12), references=True, purpose="views")
    assert asker.budget.usage == usage
    assert sorted(seen.rows) == list(range(6))
    asker.ask(seen, np.arange(12), references=True, purpose="views")
    assert set(backend.asked.values()) == {1}


# ------------------------------------------------------------------------- no leak


@pytest.fixture
def nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixes strengths and factors, the only numbers that may see all labels."""
    monkeypatch.setattr(weighing, "fit_factors", lambda terms, _: np.ones(terms.shape[:-2]))
    monkeypatch.setattr(discriminant, "_STRENGTHS", np.array([0.3]))


@pytest.mark.usefixtures("nothing_is_chosen")
@pytest.mark.parametrize("example", [0, 5, 13, 19])
def test_no_view_sees_the_label_that_it_is_asked_for(example: int) -> None:
    """With strengths and factors fixed, its own label changes nothing; other examples' do."""
    backend = Planted()
    problem = problem_of(backend, split([8, 8, 4]))
    views = pool_of_views(backend, problem, 0)
    assert any(len(view.rows) < 20 for view in views)
    labels = problem.train.labels.copy()
    labels[example] = (labels[example] + 1) % 3
    flipped = replace(problem, train=replace(problem.train, labels=labels))
    for view in views:
        before = asked(asker_of(backend, problem), view).held_out
        after = asked(asker_of(backend, flipped), view).held_out
        np.testing.assert_allclose(after[example], before[example], atol=1e-6)
        if example in view.rows:
            assert not np.allclose(after, before, atol=1e-3, equal_nan=True)
        else:  # it stands in the prompt
            np.testing.assert_array_equal(after, before)


def test_examples_take_turns() -> None:
    """The helper of these tests: classes of different sizes, every text with its class."""
    labels = [each.label for each in examples([3, 1, 2])]
    assert labels == ["class0", "class1", "class2", "class0", "class2", "class0"]
