"""What views were asked, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from blackbox_delta.auto.views import View
from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import SpentError
from blackbox_delta.problem import Part, Problem, ask_within
from blackbox_delta.types import (
    Backend,
    DeltaBatch,
    Evidence,
    FittedHead,
    Head,
    IntArray,
    Prompt,
    ScoreRequest,
    Scores,
    Vector,
)


@dataclass(eq=False)
class Seen:
    """What the model said so far about the training examples under one view.

    Attributes:
        view: The view.
        held_out: (n, c) log class probabilities, each example's from a fit without its label; NaN
            for examples not asked about.
        rows: (m,) training examples asked about, in the order of the evidence.
        evidence: On these.
        reference: On the head's own texts, where the budget allowed to ask.
    """

    view: View
    held_out: Vector
    rows: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    evidence: Evidence | None = None
    reference: Evidence | None = None

    @property
    def complete(self) -> bool:
        """Whether it was asked about all examples that it may learn from."""
        return len(self.rows) == len(self.view.rows)

    @property
    def known(self) -> Evidence:
        """The evidence.

        Raises:
            RuntimeError: Nothing was asked yet.
        """
        if self.evidence is None:
            raise RuntimeError(f"the view {self.view.name!r} was asked nothing yet")
        return self.evidence

    def losses(self, labels: IntArray) -> Vector:
        """(n,) held-out losses in nats; NaN for examples not asked about."""
        result: Vector = -self.held_out[np.arange(len(labels)), labels]
        return result


def by_kind(seen: Sequence[Seen]) -> list[list[Seen]]:
    """Views of the same kind together."""
    kinds = dict.fromkeys(each.view.kind for each in seen)
    return [[each for each in seen if each.view.kind == kind] for kind in kinds]


class Asker:
    """Asks about training examples, charges the budget and keeps the held-out predictions.

    Args:
        backend: The model.
        problem: Whose training examples.
        head: Learns from each view.
        budget: Its only owner.
        references: Whether the head's own texts are asked about at all.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        head: Head,
        budget: Budget,
        *,
        references: bool = True,
    ) -> None:
        self.backend = backend
        self.budget = budget
        self.head = head
        self.labels = problem.train.labels
        self._train: Part = problem.train
        self._references = references
        self.head_seconds = 0.0

    def fresh(self, view: View) -> Seen:
        """A view that was asked nothing yet."""
        choices = len(view.reader.verbalizer.labels)
        return Seen(view, np.full((len(self.labels), choices), np.nan))

    def fitted(self, seen: Seen, head: Head | None = None) -> FittedHead:
        """A head, its own unless another is given, fitted on all that a view was asked."""
        with self._timed():
            return (head or self.head).fit(seen.known, self.labels[seen.rows], seen.reference)

    def as_of(self, seen: Seen, rows: IntArray) -> Seen:
        """What was known of a view when it had been asked about these of its examples alone.

        Those that it was tuned on stay unknown.
        """
        at = np.flatnonzero(np.isin(seen.rows, rows))
        if len(at) == len(seen.rows):
            return seen
        part = self.fresh(seen.view)
        part.rows, part.evidence = seen.rows[at], seen.known.select(at)
        part.reference = seen.reference
        self._hold_out(part)
        part.held_out[~np.isfinite(seen.held_out)] = np.nan
        return part

    def answers(self, part: Seen, whole: Seen, rows: IntArray) -> Vector:
        """(m, c) what a head that learned from ``part`` alone says of m other examples.

        NaN for those that the whole view was not asked about, or was tuned on.
        """
        said = np.full((len(rows), part.held_out.shape[1]), np.nan)
        places = np.flatnonzero(np.isfinite(whole.held_out[rows, 0]))
        if len(places):
            at = np.array([int(np.flatnonzero(whole.rows == rows[place])[0]) for place in places])
            said[places] = self.fitted(part).log_proba(whole.known.select(at))
        return said

    # ------------------------------------------------------------------ what it takes

    def need(self, view: View, rows: IntArray, *, references: bool, what: str = "a view") -> Need:
        """What asking a view about these training examples takes."""
        prompts = self._prompts(view, rows, references=references)
        return self.need_of(view, prompts, what)

    def need_of(self, view: View, prompts: list[Prompt], what: str) -> Need:
        """What asking a view about these prompts takes; a call is n queries."""
        request = self._request(view, prompts)
        tokens = int(self.backend.count_tokens(request).sum())
        written = len(prompts) * self.backend.capabilities.output_tokens
        return Need(what, 0, len(prompts), tokens, written)

    # ------------------------------------------------------------------ asking

    def ask(self, seen: Seen, rows: IntArray, *, references: bool, purpose: str) -> None:
        """Asks about those of ``rows`` that the view may learn from and was not asked about.

        Raises:
            BackendError: No sound reply could be had.
            SpentError: Replies were lost, and the budget ran out over it.
        """
        view = seen.view
        new = np.setdiff1d(np.intersect1d(rows, view.rows), seen.rows)
        wanted = references and seen.reference is None
        prompts = self._prompts(view, new, references=wanted)
        if not prompts:
            return
        reply = self._asked(self._request(view, prompts, purpose)).candidate(0)
        m = len(new)
        if wanted and len(prompts) > m:
            seen.reference = reply.select(slice(m, None))
        if m:
            fresh = reply.select(slice(m))
            seen.evidence = Evidence.joined([seen.evidence, fresh]) if seen.evidence else fresh
            seen.rows = np.concatenate([seen.rows, new])
        self._hold_out(seen)

    def evidence_on(self, view: View, prompts: list[Prompt], purpose: str) -> Evidence:
        """What the model says about other prompts of a view.

        Raises:
            BackendError: No sound reply could be had.
            SpentError: Replies were lost, and the budget ran out over it.
        """
        return self._asked(self._request(view, prompts, purpose)).candidate(0)

    def losses_of(
        self, view: View, rows: IntArray, delta: DeltaBatch, reference: Evidence | None
    ) -> Vector:
        """(λ, m) held-out losses of many candidates on m training examples.

        Heads learn from these examples alone: no other label has a part in the losses.

        Args:
            view: How the examples are put; its own delta is not used.
            rows: The examples.
            delta: λ candidates.
            reference: What stands for the replies to the head's own texts under each of them.

        Raises:
            BackendError: No sound reply could be had.
            SpentError: Replies were lost, and the budget ran out over it.
        """
        prompts = self._prompts(view, rows, references=False)
        request = replace(self._request(view, prompts, "search"), delta=delta)
        scores, labels = self._asked(request), self.labels[rows]
        with self._timed():
            held_out = [self.head.held_out(each, labels, reference) for each in scores]
        return -np.stack(held_out)[:, np.arange(len(rows)), labels]

    def _hold_out(self, seen: Seen) -> None:
        with self._timed():
            labels = self.labels[seen.rows]
            seen.held_out[seen.rows] = self.head.held_out(seen.known, labels, seen.reference)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.head_seconds += time.perf_counter() - began

    def _prompts(self, view: View, rows: IntArray, *, references: bool) -> list[Prompt]:
        examples = [self._train.examples[row] for row in rows]
        wanted = references and self._references
        own = view.reader.references(self.head) if wanted else []
        return [*view.reader.prompts(examples), *own]

    def _request(self, view: View, prompts: list[Prompt], purpose: str = "views") -> ScoreRequest:
        return ScoreRequest(
            prompts,
            view.reader.choices,
            view.delta,
            self.head.top_k,
            purpose=purpose,
        )

    def _asked(self, request: ScoreRequest) -> Scores:
        tokens = int(self.backend.count_tokens(request).sum()) * request.candidates
        written = request.queries * self.backend.capabilities.output_tokens
        need = Need("the next request", 0, request.queries, tokens, written)
        if self.budget.unit != "seconds" and not self.budget.affords(need):
            # Lost queries, or tokens beyond their estimate, used up what was kept for it.
            raise SpentError(f"nothing is left for {need.what}", sent=0)
        return ask_within(self.budget, self.backend, request, calls=0)
