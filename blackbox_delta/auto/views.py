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

from blackbox_delta.errors import TemplateError
from blackbox_delta.members import Member
from blackbox_delta.problem import Frame, Part, Problem, Reader
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
#: Prompt tokens that all demonstrations together may take if they are of mean length, and how many
#: times as many those that are drawn may take.
MAX_SHOWN_TOKENS, LONGEST_DRAW = 1024, 1.5
#: Share of the model's context that a view's own words, demonstrations included, may take.
OWN_SHARE = 0.5
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

    Views whose own words are too long for the model's context are left out; the default one stays.

    Args:
        backend: Counts the tokens of words and demonstrations.
        problem: The task, its rivals being the same with other words.
        seed: Determines who is shown.
        demonstrations: Whether views may show examples.
    """
    default, *others = (_bare(start) for start in (problem, *problem.rivals))
    words = [view for view in others if _leaves_room(backend, view)]
    draws = DRAWS if demonstrations else 0
    shown = demonstrated(backend, problem, np.random.default_rng([seed, 2]), draws)
    turns = zip_longest(words, shown)
    # Demonstrations and other words take turns: nobody knows beforehand which the task needs.
    rest = chain.from_iterable((later, sooner) for sooner, later in turns)
    return [default, *(view for view in rest if view is not None)]


def _bare(start: Problem) -> View:
    name = (start.words or start.reader.template.source).strip()
    rows = np.arange(len(start.train))
    return View(name, start.reader, rows, start.frame if start.words else None, start.start, start)


def demonstrated(
    backend: Backend, start: Problem, rng: np.random.Generator, draws: int
) -> list[View]:
    """Views of a start with demonstrations before the text, no example shown in two of them.

    None where the start has no words of its own, where the model answers turns of a chat, and
    where demonstrations would not fit or leave too little to learn from. Draws with examples that
    are too long are left out.

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
    tokens = _lengths(backend, reader, train)
    mean = float(tokens.mean())
    room = _room(backend, mean)
    each = max(0, min(most, int(room // (mean * len(classes)))))
    orders = [rng.permutation(rows) for rows in classes]
    views = []
    for draw in range(draws if each else 0):
        own = [order[draw * each : (draw + 1) * each] for order in orders]
        if min(map(len, own)) < each:
            break
        # The classes take turns, so that no class has the last word on its own.
        shown = np.stack(own, axis=1).ravel()
        view = _showing(reader, train, shown, start.words)
        if tokens[shown].sum() <= LONGEST_DRAW * room and _leaves_room(backend, view):
            views.append(view)
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


def _lengths(backend: Backend, reader: Reader, train: Part) -> IntArray:
    """(n,) tokens of the examples, each in the template."""
    return backend.count_tokens(ScoreRequest(reader.prompts(train.examples), reader.choices))


def _room(backend: Backend, mean: float) -> float:
    """Tokens that demonstrations of a mean length may take together, before words as long."""
    context = backend.capabilities.max_length
    share = np.inf if context is None else OWN_SHARE * context - mean
    return min(MAX_SHOWN_TOKENS, share)


def _leaves_room(backend: Backend, view: View) -> bool:
    """Whether a view's own words leave the text its share of the model's context."""
    text = Example(".", "." if view.reader.template.uses_pair else None)
    request = ScoreRequest(view.reader.prompts([text]), view.reader.choices, view.delta)
    try:
        own = int(backend.count_tokens(request).sum())
    except TemplateError:
        return False
    context = backend.capabilities.max_length
    return context is None or own <= OWN_SHARE * context
