"""Views: ways of putting the same example to the model.

A view is a template with words in its slot, or with labelled examples of the training set before
it (in-context learning, Brown et al. 2020, arXiv 2005.14165). Heads learn from each view alone;
what they say is pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from blackbox_delta.members import Member
from blackbox_delta.problem import Frame, Problem, Reader
from blackbox_delta.tasks import Template
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Example,
    FittedHead,
    IntArray,
    ScoreRequest,
    Vector,
)

#: Demonstrations of each class before a text, where they fit and leave enough to learn from.
SHOWN_PER_CLASS = 4
#: Share of a class that demonstrations may take.
SHOWN_SHARE = 0.25
#: Prompt tokens that all demonstrations together may take.
MAX_SHOWN_TOKENS = 1024
#: Views with demonstrations, each with others.
DRAWS = 4


@dataclass(frozen=True)
class View:
    """One way of putting an example to the model.

    Attributes:
        name: What reports call it.
        reader: Template and label words.
        rows: (m,) the training examples that a head may learn from: all but those shown in the
            prompt itself.
        frame: What z moves; ``None`` where there is no delta.
        z: (d,), likewise.
    """

    name: str
    reader: Reader
    rows: IntArray
    frame: Frame | None = None
    z: Vector | None = None

    @property
    def delta(self) -> DeltaBatch | None:
        """The one candidate that z stands for."""
        return None if self.frame is None or self.z is None else self.frame.candidates(self.z[None])

    def member(self, head: FittedHead, weight: float = 1.0) -> Member:
        """The view with a head behind it."""
        return Member(self.name, self.reader, head, weight, self.frame, self.z)


def pool_of_views(backend: Backend, problem: Problem, seed: int) -> list[View]:
    """The pool, the default view first; asks nothing of the model.

    Args:
        backend: Counts the tokens of demonstrations.
        problem: The task, its rivals being the same with other words.
        seed: Determines who is shown.
    """
    plain = [_bare(start) for start in (problem, *problem.rivals)]
    shown = list(_with_demonstrations(backend, problem, seed))
    turns = zip_longest(plain[1:], shown)
    # Demonstrations and other words take turns: nobody knows beforehand which the task needs.
    rest = chain.from_iterable((later, sooner) for sooner, later in turns)
    return [plain[0], *(view for view in rest if view is not None)]


def _bare(start: Problem) -> View:
    name = (start.words or start.reader.template.source).strip()
    rows = np.arange(len(start.train))
    return View(name, start.reader, rows, start.frame if start.words else None, start.start)


def _with_demonstrations(backend: Backend, problem: Problem, seed: int) -> Iterator[View]:
    """Up to :data:`DRAWS` views, no example shown in two of them."""
    reader, examples, labels = (
        _in_plain_words(problem),
        problem.train.examples,
        problem.train.labels,
    )
    if reader is None or backend.capabilities.chat:
        return
    counts = np.bincount(labels)
    most = min(SHOWN_PER_CLASS, int(SHOWN_SHARE * counts.min()))
    per_class = _that_fit(backend, reader, examples, labels, most)
    rng = np.random.default_rng([seed, 2])
    orders = [rng.permutation(np.flatnonzero(labels == k)) for k in range(len(counts))]
    for draw in range(DRAWS if per_class else 0):
        own = [order[draw * per_class : (draw + 1) * per_class] for order in orders]
        if any(len(part) < per_class for part in own):
            return
        # The classes take turns, so that no class has the last word on its own.
        shown = np.stack(own, axis=1).ravel()
        rest = np.setdiff1d(np.arange(len(labels)), shown)
        lead = reader.demonstrating([examples[row] for row in shown])
        yield View(f"{len(shown)} demonstrations, draw {draw + 1}", lead, rest)


def _in_plain_words(problem: Problem) -> Reader | None:
    """The first view's reader with words in its slot; ``None`` where the slot has none."""
    reader = problem.reader
    if not reader.template.slots:
        return reader
    if problem.words is None:
        return None
    source = in_words(reader.template.source, problem.words)
    return Reader(Template.parse(source), reader.verbalizer)


def _that_fit(
    backend: Backend, reader: Reader, examples: Sequence[Example], labels: IntArray, most: int
) -> int:
    """How many demonstrations a class may have, going by the mean length of the examples."""
    prompts = reader.prompts(examples)
    tokens = backend.count_tokens(ScoreRequest(prompts, reader.choices)).mean()
    classes = len(np.unique(labels))
    return max(0, min(most, int(MAX_SHOWN_TOKENS // (tokens * classes))))
