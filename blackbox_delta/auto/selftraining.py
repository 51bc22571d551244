"""Learning from texts without labels: views that teach one another.

Co-training (Blum and Mitchell 1998, "Combining labeled and unlabeled data with co-training") over
the pooled views. Each text is asked about once under each of them. A view's teachers are all the
others: texts that they are sure enough of are labelled as they say, and a second head for the view
is fitted on the labelled examples and on these. A view that is alone teaches itself. Both heads
of a view answer from then on, which costs no further query: the taught ones know more and err
together, as they learnt from the same guesses.

Self-training can do harm, as wrong answers confirm themselves. So everything is done a few times
over with some of the labels hidden, from the heads and from the teachers, and what it answers for
those examples is compared with what heads without the texts answer. Only a clear gain is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.pooling import Pooled
from blackbox_delta.members import pool
from blackbox_delta.types import Evidence, Example, FittedHead, IntArray, Json, Vector

Mask: TypeAlias = NDArray[np.bool_]

#: How sure a text's teachers must be, from 0 for chance to 1 for certainty. With SmolLM2-135M and
#: 150 texts the surest half of them alone taught little that heads did not know, on TREC above
#: all, and a second round nothing more.
SURE = 0.25
#: Times that some labels are hidden.
FOLDS = 4
#: Texts of which no more are asked about: heads slow down with the square of their number.
MOST_TEXTS = 600


@dataclass(frozen=True)
class SelfTrained:
    """What texts without labels taught the views of a pool.

    Attributes:
        texts: u, how many were asked about.
        heads: One a view, in the pool's order, taught by the others; they answer beside the pool's
            own, with the same weights.
        without: The pool, each example's prediction from a fit to the other folds alone.
        trained: Likewise, each view's head and the one that was taught together, the fold's labels
            hidden from the teachers too. Examples in a view's own prompt and the views' weights
            are not hidden, from either.
        kept: Whether the second are reliably better, so that ``heads`` are to answer too.
    """

    texts: int
    heads: tuple[FittedHead, ...]
    without: Pooled
    trained: Pooled
    kept: bool

    @property
    def report(self) -> Json:
        """Both held-out losses and the decision, ready for JSON."""
        return {
            "texts": self.texts,
            "kept": self.kept,
            "loss_without": self.without.loss,
            "loss_trained": self.trained.loss,
            "accuracy_without": self.without.accuracy,
            "accuracy_trained": self.trained.accuracy,
        }


def self_train(
    asker: Asker, pooled: Pooled, texts: Sequence[Example], seed: int
) -> SelfTrained | None:
    """Asks about as many texts as the budget pays for, and teaches the views with them.

    Args:
        asker: Asks.
        pooled: The views that answer.
        texts: No two alike, and none of them among the training examples.
        seed: Determines which texts are asked about, and the folds.

    Returns:
        What came of it; ``None`` where there is nothing to learn from, because no text can be
        paid or there are too few labelled examples to tell what it is worth.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    rng = np.random.default_rng([seed, 4])
    folds = _folds(asker.labels, rng)
    if not _can_be_judged(pooled.seen, folds):
        return None
    chosen = [texts[row] for row in rng.permutation(len(texts))[:MOST_TEXTS]]
    chosen = chosen[: _payable(asker, pooled.seen, chosen)]
    if not chosen:
        return None
    said = [
        asker.evidence_on(seen.view, seen.view.reader.prompts(chosen), "unlabelled")
        for seen in pooled.seen
    ]
    began = perf_counter()
    lesson = _Lesson(asker, pooled, said)
    without, trained = lesson.cross_fitted(folds)
    _, taught = lesson.heads(np.ones(len(folds), dtype=bool))
    asker.head_seconds += perf_counter() - began
    kept = trained.gain_over(without, asker.labels)
    return SelfTrained(len(chosen), tuple(taught), without, trained, kept)


def sure_ones(log_proba: Vector) -> tuple[IntArray, IntArray]:
    """The texts that are given labels, and these.

    Args:
        log_proba: (u, c) log class probabilities of u texts.

    Returns:
        Rows, ascending, and their likeliest classes.
    """
    chance = 1.0 / log_proba.shape[1]
    sureness = (np.exp(log_proba.max(axis=1)) - chance) / (1.0 - chance)
    rows = np.flatnonzero(sureness >= SURE)
    return rows, log_proba[rows].argmax(axis=1)


@dataclass(frozen=True)
class _Lesson:
    """Labelled examples and texts, as the pooled views see them.

    Attributes:
        asker: Knows the head and the labels.
        pooled: The views.
        said: What the model said about the texts under each.
    """

    asker: Asker
    pooled: Pooled
    said: Sequence[Evidence]

    def heads(self, shown: Mask) -> tuple[list[FittedHead], list[FittedHead]]:
        """Heads before and after the lesson, one of each a view.

        Args:
            shown: (n,) the labelled examples whose labels they may know.
        """
        teachers = [self._fitted(seen, shown) for seen in self.pooled.seen]
        answers = [head.log_proba(said) for head, said in zip(teachers, self.said, strict=True)]
        pupils = []
        for number, seen in enumerate(self.pooled.seen):
            weights = self.pooled.weights.copy()
            if len(weights) > 1:
                weights[number] = 0.0
            rows, labels = sure_ones(pool(answers, list(weights)))
            more = self.said[number].select(rows)
            pupils.append(self._fitted(seen, shown, more, labels))
        return teachers, pupils

    def cross_fitted(self, folds: IntArray) -> tuple[Pooled, Pooled]:
        """The pool before and after the lesson, each fold's examples answered unseen."""
        before = [np.full_like(seen.held_out, np.nan) for seen in self.pooled.seen]
        after = [each.copy() for each in before]
        for fold in range(FOLDS):
            teachers, pupils = self.heads(folds != fold)
            for number, seen in enumerate(self.pooled.seen):
                # What a view was tuned on it does not answer.
                may = np.isfinite(seen.held_out[seen.rows, 0])
                at = np.flatnonzero(may & (folds[seen.rows] == fold))
                if not len(at):
                    continue
                hidden, rows = seen.known.select(at), seen.rows[at]
                before[number][rows] = teachers[number].log_proba(hidden)
                both = before[number][rows] + pupils[number].log_proba(hidden)
                after[number][rows] = both / 2
        return self._pooled(before), self._pooled(after)

    def _fitted(
        self,
        seen: Seen,
        shown: Mask,
        more: Evidence | None = None,
        labels: IntArray | None = None,
    ) -> FittedHead:
        at = np.flatnonzero(shown[seen.rows])
        evidence, known = seen.known.select(at), self.asker.labels[seen.rows[at]]
        if more is not None and labels is not None:
            evidence, known = Evidence.joined([evidence, more]), np.concatenate([known, labels])
        return self.asker.head.fit(evidence, known, seen.reference)

    def _pooled(self, answers: Sequence[Vector]) -> Pooled:
        seen = [
            replace(each, held_out=answer)
            for each, answer in zip(self.pooled.seen, answers, strict=True)
        ]
        return Pooled.of(seen, self.pooled.weights, self.asker.labels)


def _folds(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """(n,) a fold for each example, every class spread evenly; -1 for a class's only example."""
    folds = np.full(len(labels), -1)
    for k in range(int(labels.max()) + 1):
        rows = rng.permutation(np.flatnonzero(labels == k))
        if len(rows) > 1:
            # Classes begin with different folds, so that these become equally large.
            folds[rows] = (np.arange(len(rows)) + k) % FOLDS
    return folds


def _can_be_judged(seen: Sequence[Seen], folds: IntArray) -> bool:
    """Whether there are examples to hide, and every view keeps two to learn from."""
    left = [int((folds[each.rows] != fold).sum()) for each in seen for fold in range(FOLDS)]
    return bool((folds >= 0).sum() > 1) and min(left) > 1


def _payable(asker: Asker, seen: Sequence[Seen], texts: Sequence[Example]) -> int:
    """How many of the texts, from the first on, can be asked about under every view."""

    def too_dear(count: int) -> bool:
        needs = [
            asker.need_of(each.view, each.view.reader.prompts(texts[:count]), "texts")
            for each in seen
        ]
        return not asker.budget.affords(*needs)

    return bisect_left(range(1, len(texts) + 1), True, key=too_dear)
