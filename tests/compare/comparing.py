"""What the tests of the comparison share: small tasks, trials, and findings with known scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.contract import Measured, Point, Trial
from blackbox_delta.compare.grid import shared_template
from blackbox_delta.tasks import TaskData, draw_split, task_from_lists
from blackbox_delta.types import Backend, Vector

GREAT = ["great", "good", "wonderful", "love", "best", "fun"]
BAD = ["terrible", "awful", "boring", "worst", "hate", "poor"]
OTHER = ["the", "a", "is", "was", "it", "this", "movie", "film", "story", "and", "with", "you"]


def films(count: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """``count`` texts a class, with more words of their class than of the other."""
    texts, labels = [], []
    for _ in range(count):
        for label, own in (("great", GREAT), ("terrible", BAD)):
            words = [*rng.sample(own, 2), *rng.sample(OTHER, 5), rng.choice(GREAT + BAD)]
            texts.append(" ".join(rng.sample(words, len(words))))
            labels.append(label)
    return texts, labels


def film_task(name: str = "films", seed: int = 0) -> TaskData:
    """20 training and 15 test texts a class."""
    rng = random.Random(seed)
    return task_from_lists(*films(20, rng), test=films(15, rng), name=name)


def film_trial(
    folder: Path, backend: Backend | None = None, *, shots: int = 4, seed: int = 13
) -> Trial:
    backend = backend or FakeBackend()
    template = shared_template(backend.capabilities, pairs=False)
    split = draw_split(film_task(), shots, seed)
    return Trial(split, backend.name, template, None, seed, backend, folder)


def ignore(_share: float, _note: str) -> None:
    """A step that nobody watches."""


def made(
    task: str,
    method: str,
    seed: int,
    answers: Sequence[int],
    train: Sequence[int] = (0, 0),
    *,
    calls: float = 1,
    curve: tuple[Point, ...] = (),
) -> Finding:
    """A finding of two classes. All right answers are 0; ``answers`` are the test part's."""

    def log_proba(chosen: Sequence[int]) -> Vector:
        return np.log(np.where(np.eye(2)[list(chosen)] > 0, 0.9, 0.1))

    measured = Measured(
        log_proba=log_proba(answers),
        train_log_proba=log_proba(train),
        calls=calls,
        queries=int(10 * calls),
        tokens=int(100 * calls),
        seconds=calls / 2,
        test_queries=1,
        artifact_bytes=2000,
        curve=curve,
    )
    truth, train_truth = np.zeros(len(answers), np.int64), np.zeros(len(train), np.int64)
    return Finding(
        task, seed, method, 16, ("a", "b"), truth, train_truth, measured, peak_bytes=5 * 10**6
    )
