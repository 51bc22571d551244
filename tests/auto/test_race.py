"""Races on planted views: who drops out is asked nothing more, who is good stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import Planted, around, asker_of, bare_problem, worded

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.race import LEAST_PER_CLASS, LEGS, legs, run_race
from blackbox_delta.auto.views import DEMONSTRATIONS, WORDS, View
from blackbox_delta.types import IntArray, Prompt

EACH = 16
ROWS = 2 * EACH


# ------------------------------------------------------------------------- legs


def check_legs(labels: IntArray) -> None:
    counts = {int(k): int((labels == k).sum()) for k in np.unique(labels)}
    parts = [set(rows.tolist()) for rows in legs(labels)]
    assert parts[-1] == set(range(len(labels)))
    assert all(smaller < larger for smaller, larger in pairwise(parts))
    wanted = [
        {k: min(count, max(math.ceil(share * count), LEAST_PER_CLASS)) for k, count in all_of}
        for share, all_of in ((share, counts.items()) for share in LEGS)
    ]
    for part in parts:
        assert {k: sum(int(labels[row]) == k for row in part) for k in counts} in wanted


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_legs_grow_with_the_same_share_of_every_class(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    check_legs(np.random.default_rng(seed).permutation(labels))


@pytest.mark.parametrize("sizes", [[1, 50], [1, 1], [50, 1, 7], [16] * 77, [1] * 77])
def test_legs_of_unusual_sizes(sizes: list[int]) -> None:
    check_legs(np.repeat(np.arange(len(sizes)), sizes))


def test_legs_by_hand() -> None:
    labels = np.array([0, 1] * 8)
    assert [rows.tolist() for rows in legs(labels)] == [
        list(range(6)),  # at least three of each
        list(range(8)),
        list(range(16)),
    ]
    assert [len(rows) for rows in legs(np.array([0, 1, 0, 1, 0, 1]))] == [6]


# ------------------------------------------------------------------------- the race


class Track:
    """A problem of two classes and a model that is as good with each of the words as planted."""

    def __init__(self, head: str = "discriminant", *, budget: int = 10**6, **words: float) -> None:
        self.backend = Planted(lambda said: words[said.split()[-1]])
        self.problem = bare_problem([EACH, EACH])
        self.asker: Asker = asker_of(self.backend, self.problem, budget, head)
        self.legs = 0

    def view(self, words: str, rows: IntArray | None = None) -> View:
        return worded(self.problem, words, rows)

    def finished(self, words: str) -> Seen:
        seen = self.asker.fresh(self.view(words))
        self.asker.ask(seen, seen.view.rows, references=False, purpose="views")
        return seen

    def race(self, leader: str, *words: str) -> tuple[list[str], list[str]]:
        return self.race_of(leader, [self.asker.fresh(self.view(each)) for each in words])

    def race_of(self, leader: str, racers: Sequence[Seen]) -> tuple[list[str], list[str]]:
        first = self.finished(leader)
        through, out = run_race(self.asker, racers, [first], self.tell)
        return [each.view.name for each in through], [each.view.name for each in out]

    def tell(self) -> None:
        self.legs += 1

    def queries(self, words: str) -> int:
        return sum(self.counts(words).values())

    def counts(self, words: str) -> dict[Prompt, int]:
        asked = self.backend.asked.items()
        return {prompt: n for prompt, n in asked if around(prompt).split()[-1] == words}


def first_leg(track: Track) -> int:
    return len(next(legs(track.asker.labels)))


def test_a_bad_view_drops_out_and_is_never_asked_about_the_rest() -> None:
    track = Track("plain", best=3.0, bad=-6.0, good=3.0)
    assert track.race("best", "bad", "good") == (["good"], ["bad"])
    assert track.queries("bad") == first_leg(track) == 8
    assert track.queries("good") == ROWS
    assert track.legs == len(LEGS)


def test_nothing_is_asked_twice_and_all_is_charged() -> None:
    track = Track("anchored", fair=2.0, bad=0.0, good=8.0)
    assert track.race("fair", "bad", "good") == (["good"], ["bad"])
    assert set(track.backend.asked.values()) == {1}
    assert track.asker.budget.usage.queries == track.backend.asked.total()
    # Anchors are asked with the first leg: four phrases of two label words.
    assert track.queries("bad") == first_leg(track) + 8
    assert track.queries("good") == ROWS + 8


@pytest.mark.parametrize("head", ["plain", "discriminant", "anchored"])
@pytest.mark.parametrize("quality", [0.0, 1.0, 4.0])
def test_views_alike_all_stay(quality: float, head: str) -> None:
    """The same words in the leader and two racers.

    The leader was asked about all examples, so its head could learn more than theirs on a part.
    """
    track = Track(head, same=quality)
    racers = [track.asker.fresh(track.view("same")) for _ in range(2)]
    assert track.race_of("same", racers) == (["same"] * 2, [])
    assert track.legs == len(LEGS)


def test_views_of_equal_worth_mostly_stay() -> None:
    words = {f"word{number}": 2.0 for number in range(8)}
    track = Track(leader=2.0, **words)
    through, _ = track.race("leader", *words)
    assert len(through) >= 5


def test_a_racer_better_than_the_leader_sets_the_pace() -> None:
    """Beside the leader the bad view could stay."""
    track = Track(leader=0.0, bad=0.0)
    assert track.race("leader", "bad") == (["bad"], [])
    track = Track(leader=0.0, bad=0.0, good=9.0)
    assert track.race("leader", "bad", "good") == (["good"], ["bad"])


def test_all_may_drop_out_and_the_race_ends_there() -> None:
    track = Track(best=9.0, bad=0.0, worse=0.0)
    assert track.race("best", "bad", "worse") == ([], ["bad", "worse"])
    assert track.backend.asked.total() == ROWS + 2 * first_leg(track)


def test_no_racers_no_race() -> None:
    track = Track(best=9.0)
    assert track.race("best") == ([], [])
    assert track.backend.asked.total() == ROWS


def test_a_budget_for_all_to_the_end_is_never_exceeded() -> None:
    track = Track(budget=4 * ROWS, best=1.0, good=1.0, fair=1.0, other=1.0)
    track.race("best", "good", "fair", "other")
    assert track.asker.budget.usage.queries == track.backend.usage.queries <= 4 * ROWS


@pytest.mark.parametrize("known", [0, 1, 2, 4, 5])
def test_a_view_that_shows_most_of_the_first_leg_goes_on(known: int) -> None:
    """Demonstrations are drawn by lot; who is shown may be just who would be asked first."""
    track = Track(leader=0.0, shown=6.0)
    early = next(legs(track.asker.labels))
    rows = np.setdiff1d(np.arange(ROWS), early[known:])
    racers = [track.asker.fresh(track.view("shown", rows))]
    assert track.race_of("leader", racers) == (["shown"], [])
    assert track.queries("shown") == len(rows)
    assert np.isfinite(racers[0].held_out[rows]).all()


def test_examples_that_only_one_of_two_knows_are_not_compared() -> None:
    """A leader that does badly on what the racer never answers is no better for it."""
    track = Track("plain", leader=3.0, partly=3.0)
    hard = np.arange(0, ROWS, 4)
    rows = np.setdiff1d(np.arange(ROWS), hard)
    racer = track.asker.fresh(track.view("partly", rows))
    leader = track.finished("leader")
    assert leader.evidence is not None
    leader.evidence.label_logprobs[:] = -1.0
    leader.evidence.label_logprobs[hard, track.asker.labels[hard]] = -30.0
    leader = track.asker.as_of(leader, np.arange(ROWS))
    _, out = run_race(track.asker, [racer], [leader], track.tell)
    assert out == []
    assert track.queries("partly") == len(rows)


def test_kinds_do_not_drop_one_another() -> None:
    """A bad view stays beside good ones of another kind, and drops out beside one of its own."""
    for kind, expected in ((DEMONSTRATIONS, ["bad"]), (WORDS, [])):
        track = Track("plain", leader=3.0, bad=0.0)
        bad = replace(track.view("bad"), kind=kind)
        through, _ = track.race_of("leader", [track.asker.fresh(bad)])
        assert through == expected
    track = Track("plain", leader=3.0, good=3.0, bad=0.0)
    shown = [replace(track.view(words), kind=DEMONSTRATIONS) for words in ("good", "bad")]
    racers = [track.asker.fresh(view) for view in shown]
    assert track.race_of("leader", racers) == (["good"], ["bad"])


def test_the_worse_a_view_the_likelier_it_drops_out() -> None:
    shares = []
    for quality in (2.0, 1.5, 0.0):
        words = {f"word{number}": quality for number in range(20)}
        _, out = Track("plain", leader=2.0, **words).race("leader", *words)
        shares.append(len(out) / len(words))
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1]
