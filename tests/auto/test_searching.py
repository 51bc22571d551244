"""The searches through the head: each learns from its own half, and the other half judges it."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Listening
from planted import asker_of, problem_of, split

from blackbox_delta.api import tune
from blackbox_delta.auto import searching
from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.searching import POPULATION, DeltaSearch, halves
from blackbox_delta.auto.views import pool_of_views
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.probing import PROBES
from blackbox_delta.problem import Problem
from blackbox_delta.tasks import draw_split, load_task
from blackbox_delta.types import IntArray

SUPPORT = load_task(str(files("blackbox_delta.data") / "support"))


def problem(shots: int) -> Problem:
    drawn = draw_split(SUPPORT, shots, 0, 1, development=False)
    return problem_of(FakeBackend(), drawn, dimension=8)


def begun(asker: Asker, whole: Problem, *, probing: bool = True) -> DeltaSearch:
    """A search around the default view, which was asked about everything."""
    first = pool_of_views(asker.backend, whole, 0, demonstrations=False)[0]
    seen = asker.fresh(first)
    asker.ask(seen, first.rows, references=True, purpose="views")
    assert first.frame is not None
    return DeltaSearch(asker, seen, first.frame, "cma", 0, probing=probing)


# ------------------------------------------------------------------------- halves


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60))
def test_halves_hold_each_example_once_and_the_same_share_of_every_class(each: list[int]) -> None:
    labels = np.array(each)
    one, other = halves(labels)
    assert sorted([*one, *other]) == list(range(len(labels)))
    counts = [np.bincount(labels[rows], minlength=6) for rows in (one, other)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


# ------------------------------------------------------------------------- who learns from whom


def test_a_search_asks_about_its_own_half_alone_and_is_judged_on_the_other() -> None:
    backend, whole = Listening(), problem(4)
    asker = asker_of(backend, whole)
    search = begun(asker, whole)
    looks = search.looks()
    backend.requests.clear()
    tuned = next(looks)
    half = [{whole.train.examples[row].text for row in rows} for rows in halves(asker.labels)]
    generations = [each for each in backend.requests if each.candidates == POPULATION]
    assert len(generations) == 2 * searching.GENERATIONS
    for request in generations:
        text = "".join(str(prompt) for prompt in request.prompts)
        mine = [all(each in text for each in texts) for texts in half]
        others = [any(each in text for each in texts) for texts in half]
        assert sorted(mine) == sorted(others) == [False, True]
    for seen, told in zip(tuned, halves(asker.labels), strict=True):
        judged = np.flatnonzero(np.isfinite(seen.held_out[:, 0]))
        assert sorted([*told, *judged]) == list(range(len(asker.labels)))


def test_steps_that_are_told_are_not_probed() -> None:
    """A user's scale is the first step itself."""
    backend, whole = Listening(), problem(6)
    search = begun(asker_of(backend, whole), whole, probing=False)
    queries = sum(need.queries for need in search.need())
    backend.requests.clear()
    next(search.looks())
    assert not [each for each in backend.requests if each.candidates == PROBES]
    assert queries == sum(each.queries for each in backend.requests)


def test_labels_of_the_other_half_have_no_part_in_what_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = problem(4)
    labels = whole.train.labels
    one, other = halves(labels)
    monkeypatch.setattr(searching, "halves", lambda _: (one, other))

    def found(labels: IntArray) -> list[bytes]:
        changed = replace(whole, train=replace(whole.train, labels=labels))
        backend = FakeBackend()
        looks = begun(asker_of(backend, changed), changed).looks()
        next(looks)
        return [np.asarray(seen.view.z).tobytes() for seen in next(looks)]

    elsewhere = labels.copy()
    elsewhere[other] = np.roll(labels[other], 1)
    before, after = found(labels), found(elsewhere)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_look_costs_what_it_was_said_to_at_most() -> None:
    backend, whole = FakeBackend(), problem(6)
    asker = asker_of(backend, whole)
    search = begun(asker, whole)
    looks = search.looks()
    for round_number in range(3):
        said = sum(need.queries for need in search.need())
        before = backend.queries
        next(looks)
        spent = backend.queries - before
        n = len(whole.train)
        probed = 2 * n if round_number == 0 else 0  # the first step probed may do no harm
        anchors = 2 * len(whole.reader.references(asker.head))
        least = probed + n * (POPULATION * searching.GENERATIONS + 2) + anchors
        assert least <= spent <= said
        assert round_number == 0 or spent == said


# ------------------------------------------------------------------------- too few


@pytest.mark.parametrize(("shots", "searched"), [(1, False), (5, False), (6, True)])
def test_there_is_no_search_on_too_few_examples(shots: int, *, searched: bool) -> None:
    drawn = draw_split(SUPPORT, shots, 0, 1, development=False)
    left_out = "words,demonstrations,rewritings"
    model = tune(FakeBackend(), drawn, budget=40, dimension=8, without=left_out)
    parts = [part["part"] for part in model.result["parts"]]
    assert ("search of the soft-prompt" in parts) == searched


@pytest.mark.parametrize("sizes", [[1, 11], [2, 30, 3], [1, 1, 16]])
def test_classes_may_be_of_very_different_sizes(sizes: list[int]) -> None:
    """Where a half holds one example of a class, or none, what is found is still finite."""
    backend = FakeBackend()
    whole = problem_of(backend, split(sizes), dimension=8)
    tuned = next(begun(asker_of(backend, whole), whole).looks())
    for seen in tuned:
        assert seen.view.z is not None
        assert np.isfinite(seen.view.z).all()
        assert np.isfinite(seen.held_out).any()
