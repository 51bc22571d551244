"""The nearest stored output distributions vote.

Xu et al. 2023, "kNN Prompting: Beyond-Context Learning with Calibration-Free Nearest Neighbor
Inference" (arXiv:2303.13824): the training examples' output distributions are kept, and a new
text goes with those of the smallest Kullback-Leibler divergence, KL(stored ‖ new) as their program
has it.

An API returns k tokens, not the vocabulary, so a distribution is completed first. Its columns
are the tokens returned for any training text, and one for everything else. Of a token outside
a reply's top k it is known that it lies below the reply's floor and that all of those share
the mass that remains: each is taken to lie one nat below the floor, or at its share of the
remaining mass if that is less; what is left then falls to the last column.

Differences from the paper: probabilities are taken to the power ½ and normalised again, or a
handful of tokens decide alone (SmolLM2-135M, three tasks: +2 points); votes fade with
divergence; the calibrated label words have a say beside them, as large as the leave-one-out
likelihood gives them (+7 points); a class's votes count relative to its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.heads.balance import balanced_mean, held_out_balanced_means, vote_weights
from blackbox_delta.heads.features import check_top_k, label_scores
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.probabilities import check_choices, log_softmax
from blackbox_delta.heads.weighing import Weighed, best_of, with_unseen
from blackbox_delta.types import Evidence, FloatArray, IntArray, Vector

_NEIGHBOURS = (1, 2, 4, 8, 16, 32)
_POWER = 0.5
_BELOW_FLOOR = 1.0  # nats
_SMALLEST_MASS = 1e-9
_FADING = 2.0  # the farthest neighbour's vote counts exp(-2)
_ROUNDING = 1e-6  # nats, below which divergences tell nothing


@dataclass(frozen=True)
class Replies:
    """The part of n output distributions that was returned.

    Attributes:
        ids: (n, k) int64 tokens; the labels' numbers where no top tokens were asked for.
        logprobs: (n, k) float32.
    """

    ids: IntArray
    logprobs: FloatArray

    @classmethod
    def of(cls, evidence: Evidence) -> Replies:
        """The top tokens, or else the distribution over the label words alone."""
        if evidence.top_ids.shape[1]:
            return cls(evidence.top_ids, evidence.top_logprobs)
        logprobs = log_softmax(evidence.label_logprobs).astype(np.float32)
        ids = np.broadcast_to(np.arange(logprobs.shape[1]), logprobs.shape)
        return cls(ids, logprobs)

    def completed(self, vocabulary: IntArray) -> Vector:
        """Log-probabilities (n, m + 1) over m tokens and everything else, tempered."""
        n, m = len(self.ids), len(vocabulary)
        logprobs = self.logprobs.astype(np.float64)
        at = np.minimum(np.searchsorted(vocabulary, self.ids), m - 1)
        rows, ranks = np.nonzero(vocabulary[at] == self.ids)
        returned = logprobs[rows, ranks]

        def total(values: Vector) -> Vector:  # of what was returned and has a column
            result: Vector = np.bincount(rows, weights=values, minlength=n).astype(np.float64)
            return result

        missing = m - total(np.ones(len(rows)))
        rest = np.maximum(1.0 - np.exp(logprobs).sum(axis=1), _SMALLEST_MASS)
        each = np.minimum(logprobs.min(axis=1) - _BELOW_FLOOR, np.log(rest / (missing + 1)))
        known = total(np.exp(returned)) + missing * np.exp(each)
        other = np.log(np.maximum(1.0 - known, _SMALLEST_MASS))

        mass = total(np.exp(_POWER * returned)) + missing * np.exp(_POWER * each)
        norm = np.log(mass + np.exp(_POWER * other))
        columns = np.repeat((_POWER * each - norm)[:, None], m + 1, axis=1)
        columns[rows, at[rows, ranks]] = _POWER * returned - norm[rows]
        columns[:, -1] = _POWER * other - norm
        return columns


def divergences(new: Vector, stored: Vector) -> Vector:
    """KL(stored ‖ new) of shape (n, s), from log-probabilities (n, m) and (s, m)."""
    probabilities = np.exp(stored)
    entropy = (probabilities * stored).sum(axis=1)
    result: Vector = np.maximum(entropy - new @ probabilities.T, 0.0)
    return result


def votes(divergence: Vector, member: Vector, weight: Vector, neighbours: int) -> Vector:
    """Log votes (n, c) of the nearest stored replies, one imagined vote shared by all classes.

    Replies as near as the last of the nearest vote too, so that their order means nothing.

    Args:
        divergence: (n, s) from the stored replies; infinite for one that must not vote.
        member: (s, c) one-hot classes of the stored replies.
        weight: (c,) or (n, c), what a vote for each class counts.
        neighbours: How many vote; at least as many divergences of each row are finite.
    """
    farthest = np.partition(divergence, neighbours - 1, axis=1)[:, neighbours - 1, None]
    farthest = farthest + _ROUNDING
    vote = np.where(divergence <= farthest, np.exp(-_FADING * divergence / farthest), 0.0)
    result: Vector = np.log(weight * (vote @ member) + 1.0 / member.shape[1])
    return result


@dataclass(frozen=True)
class FittedNearest:
    """Stored replies and how to ask them.

    Attributes:
        replies: The training examples' s replies.
        labels: (s,) their classes.
        offset: (c,) what is subtracted from the label words' scores.
        neighbours: How many vote.
        factors: (2,) on the log votes and on the label words' scores.
        top_k: How many top tokens it needs with each reply.
        kind: The head it came from.
    """

    replies: Replies
    labels: IntArray
    offset: Vector
    neighbours: int
    factors: Vector
    top_k: int
    kind: str = "nearest"

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> FittedNearest:
        """The inverse of :meth:`state`; raises ``KeyError`` where an array is missing."""
        top_k, neighbours = (int(value) for value in state["settings"])
        replies = Replies(state["ids"].astype(np.int64), state["logprobs"])
        return cls(replies, state["labels"], state["offset"], neighbours, state["factors"], top_k)

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c).

        Raises:
            ConfigError: The evidence has another number of labels or of top tokens.
        """
        c = len(self.offset)
        check_choices(evidence, c)
        check_top_k(evidence, self.top_k)
        vocabulary = np.unique(self.replies.ids)
        new = Replies.of(evidence).completed(vocabulary)
        away = divergences(new, self.replies.completed(vocabulary))
        counts = np.bincount(self.labels, minlength=c)
        own = votes(away, np.eye(c)[self.labels], vote_weights(counts), self.neighbours)
        on_votes, on_words = self.factors
        scores = on_votes * own + on_words * (label_scores(evidence) - self.offset)
        return with_unseen(scores, counts > 0, len(self.labels))

    def state(self) -> dict[str, NDArray[Any]]:
        """The replies as they came, 8 bytes a token, and a few numbers."""
        return {
            "ids": np.ascontiguousarray(self.replies.ids, dtype=np.int32),
            "logprobs": np.ascontiguousarray(self.replies.logprobs),
            "labels": self.labels,
            "offset": self.offset,
            "settings": np.array([self.top_k, self.neighbours], dtype=np.int64),
            "factors": self.factors,
        }


@dataclass(frozen=True)
class Neighbourhood:
    """The training examples among one another.

    Attributes:
        replies: Theirs.
        divergence: (n, n) of each reply (rows) from the others; infinite from itself.
        labels: (n,).
        choices: c.
    """

    replies: Replies
    divergence: Vector
    labels: IntArray
    choices: int

    @classmethod
    def of(cls, evidence: Evidence, labels: IntArray) -> Neighbourhood:
        """Compares n replies with one another."""
        replies = Replies.of(evidence)
        completed = replies.completed(np.unique(replies.ids))
        divergence = divergences(completed, completed)
        np.fill_diagonal(divergence, np.inf)
        return cls(replies, divergence, labels, evidence.label_logprobs.shape[1])

    def held_out(self, neighbours: int) -> Vector:
        """Log votes (n, c) of the others."""
        member = np.eye(self.choices)[self.labels]
        others = np.bincount(self.labels, minlength=self.choices) - member.astype(np.int64)
        return votes(self.divergence, member, vote_weights(others), neighbours)


def _choose(evidence: Evidence, labels: IntArray) -> tuple[Neighbourhood, int, Weighed]:
    """The replies, how many of them vote, and the leave-one-out estimate."""
    around = Neighbourhood.of(evidence, labels)
    words = label_scores(evidence)
    words = words - held_out_balanced_means(words, labels)
    sizes = [size for size in _NEIGHBOURS if size < len(labels)]
    tried = Weighed.of_each([(around.held_out(size), words) for size in sizes], labels)
    best = best_of(tried)
    return around, sizes[best], tried[best]


@dataclass(frozen=True)
class NearestHead(LearnedHead):
    """The training examples whose replies were most alike, and the calibrated label words."""

    kind: str = "nearest"

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedNearest:
        del reference
        around, neighbours, weighed = _choose(evidence, labels)
        offset = balanced_mean(label_scores(evidence), labels)
        top_k = evidence.top_ids.shape[1]
        return FittedNearest(
            around.replies, labels.astype(np.int64), offset, neighbours, weighed.factors, top_k
        )

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        del reference
        return _choose(evidence, labels)[2].log_proba
