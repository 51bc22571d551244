"""Views: ways of putting the same example to the model.

A view is a template with words in its slot, or with labelled examples of the training set before
it (in-context learning, Brown et al. 2020, arXiv 2005.14165). Heads learn from each view alone;
what they say is pooled.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from blackbox_delta.members import Member
from blackbox_delta.problem import Frame, Part, Problem, Reader
from blackbox_delta.tasks import Template
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
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
WORDS, DEMONSTRATIONS = "words", "demonstrations"


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
        start: Whose words it has; ``None`` where it shows demonstrations.
        kind: ``"words"`` or ``"demonstrations"``. Views of one kind err alike, and their losses
            can be compared.
    """

    name: str
    reader: Reader
    rows: IntArray
    frame: Frame | None = None
    z: Vector | None = None
    start: Problem | None = None
    kind: str = WORDS

    @property
    def delta(self) -> DeltaBatch | None:
        """The one candidate that z stands for."""
        return None if self.frame is None or self.z is None else self.frame.candidates(self.z[None])

    def member(self, head: FittedHead, weight: float = 1.0) -> Member:
        """The view with a head behind it."""
        return Member(self.name, self.reader, head, weight, self.frame, self.z)


def pool_of_views(
    backend: Backend, problem: Problem, seed: int, *, demonstrations: bool = True
) -> list[View]:
    """The pool, the default view first; asks nothing of the model.

    Args:
        backend: Counts the tokens of demonstrations.
        problem: The task, its rivals being the same with other words.
        seed: Determines who is shown.
        demonstrations: Whether views may show examples.
    """
    plain = [_bare(start) for start in (problem, *problem.rivals)]
    draws = DRAWS if demonstrations else 0
    shown = demonstrated(backend, problem, np.random.default_rng([seed, 2]), draws)
    turns = zip_longest(plain[1:], shown)
    # Demonstrations and other words take turns: nobody knows beforehand which the task needs.
    rest = chain.from_iterable((later, sooner) for sooner, later in turns)
    return [plain[0], *(view for view in rest if view is not None)]


def _bare(start: Problem) -> View:
    name = (start.words or start.reader.template.source).strip()
    rows = np.arange(len(start.train))
    return View(name, start.reader, rows, start.frame if start.words else None, start.start, start)


def demonstrated(
    backend: Backend, start: Problem, rng: np.random.Generator, draws: int
) -> list[View]:
    """Views of a start with demonstrations before the text, no example shown in two of them.

    None where the start has no words of its own, where the model answers turns of a chat, and
    where demonstrations would not fit or leave too little to learn from.

    Args:
        backend: Counts their tokens.
        start: Words and training examples.
        rng: Determines who is shown.
        draws: How many views at most.
    """
    reader, train = _in_plain_words(start), start.train
    if reader is None or backend.capabilities.chat:
        return []
    labels = train.labels
    classes = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    most = min(SHOWN_PER_CLASS, int(SHOWN_SHARE * min(map(len, classes))))
    each = _that_fit(backend, reader, train, len(classes), most)
    orders = [rng.permutation(rows) for rows in classes]
    views = []
    for draw in range(draws if each else 0):
        own = [order[draw * each : (draw + 1) * each] for order in orders]
        if min(map(len, own)) < each:
            break
        # The classes take turns, so that no class has the last word on its own.
        views.append(_showing(reader, train, np.stack(own, axis=1).ravel(), start.words))
    return views


def _showing(reader: Reader, train: Part, shown: IntArray, words: str | None) -> View:
    lead = reader.demonstrating([train.examples[row] for row in shown])
    rest = np.setdiff1d(np.arange(len(train)), shown)
    # Told apart by whom they show, and by the words that follow the text.
    numbers = zlib.crc32(shown.astype("<i8").tobytes()) % 10_000
    after = f", {words.strip()}" if words else ""
    name = f"{len(shown)} demonstrations (no. {numbers:04}){after}"
    return View(name, lead, rest, kind=DEMONSTRATIONS)


def _in_plain_words(start: Problem) -> Reader | None:
    """A start's reader with its words in the slot; ``None`` where the slot has none."""
    reader = start.reader
    if not reader.template.slots:
        return reader
    if start.words is None:
        return None
    source = in_words(reader.template.source, start.words)
    return Reader(Template.parse(source), reader.verbalizer)


def _that_fit(backend: Backend, reader: Reader, train: Part, classes: int, most: int) -> int:
    """How many demonstrations a class may have, going by the mean length of the examples."""
    request = ScoreRequest(reader.prompts(train.examples), reader.choices)
    tokens = float(backend.count_tokens(request).mean())
    return max(0, min(most, int(MAX_SHOWN_TOKENS // (tokens * classes))))
