"""The estimate is of the whole chain: on noise it promises nothing, on a clear task it says so."""

from __future__ import annotations

import numpy as np
import pytest

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.estimate import LEAST, cross_fitted_accuracy
from blackbox_delta.auto.pooling import steps
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Part, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Evidence, Example


def asker(n: int, classes: int = 2) -> Asker:
    """About n examples whose classes take turns; nothing is asked of its model."""
    return asker_of([f"class {i % classes}" for i in range(n)])


def asker_of(labels: list[str]) -> Asker:
    train = tuple(Example(f"text {i}", label=label) for i, label in enumerate(labels))
    split = FewShotSplit(train, (), (), 1, 0)
    problem = build_problem(FakeBackend(), split, Settings(template="{text} is {label}"))
    assert isinstance(problem.train, Part)
    return Asker(FakeBackend(), problem, make_head("discriminant"), Budget(10))


def views(owner: Asker, count: int, signal: float, seed: int) -> list[Seen]:
    """Views whose label words move by ``signal`` for the right class, beside independent noise."""
    rng = np.random.default_rng(seed)
    labels = owner.labels
    n, c = len(labels), int(labels.max()) + 1
    problem = build_problem(
        FakeBackend(),
        FewShotSplit(owner._train.examples, (), (), n // c, 0),
        Settings(template="{text} is {label}", without="words"),
    )
    from blackbox_delta.auto.views import View

    found = []
    for number in range(count):
        scores = rng.normal(size=(n, c)) + signal * np.eye(c)[labels]
        tops = np.tile(np.arange(8), (n, 1))
        evidence = Evidence(
            scores.astype(np.float32), tops, rng.normal(size=(n, 8)).astype(np.float32) - 5
        )
        seen = owner.fresh(View(f"view {number}", problem.reader, np.arange(n)))
        seen.rows, seen.evidence = np.arange(n), evidence
        seen.held_out[:] = owner.head.held_out(evidence, labels, None)
        found.append(seen)
    return found


def test_on_noise_it_stays_at_chance_where_the_pool_flatters_itself() -> None:
    owner = asker(16)
    honest, flattered = [], []
    for seed in range(24):
        finished = views(owner, 8, 0.0, seed)
        honest.append(cross_fitted_accuracy(owner, finished, 16))
        flattered.append(steps(finished, owner.labels, 16)[-1].accuracy)
    assert abs(np.mean(honest) - 0.5) < 0.08
    assert np.mean(flattered) > np.mean(honest) + 0.08


def test_on_a_clear_task_it_is_near_one() -> None:
    owner = asker(24, classes=3)
    found = cross_fitted_accuracy(owner, views(owner, 3, 4.0, 1), 2)
    assert found is not None
    assert found > 0.9


def test_examples_that_a_view_was_not_asked_about_are_answered_by_the_others() -> None:
    owner = asker(20)
    finished = views(owner, 2, 4.0, 2)
    shown = np.arange(6)
    finished[1].view = type(finished[1].view)("shows", finished[1].view.reader, np.arange(6, 20))
    rest = owner.as_of(finished[1], np.setdiff1d(np.arange(20), shown))
    found = cross_fitted_accuracy(owner, [finished[0], rest], 16)
    assert found is not None
    assert found > 0.8


def test_who_is_alone_in_a_class_is_not_counted() -> None:
    """Without that one example nobody could know the class."""
    one_each = asker(12, classes=12)
    assert cross_fitted_accuracy(one_each, views(one_each, 1, 4.0, 1), 16) is None
    owner = asker_of(["a", "b"] * 12 + ["lonely"])
    found = cross_fitted_accuracy(owner, views(owner, 3, 6.0, 1), 2)
    assert found == 1.0, "of 24; it would be 24 of 25"


@pytest.mark.parametrize("n", [4, LEAST - 2])
def test_too_few_examples_give_no_estimate(n: int) -> None:
    owner = asker(n)
    assert cross_fitted_accuracy(owner, views(owner, 1, 1.0, 0), 16) is None
