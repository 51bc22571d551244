"""Replies that may be used, and what they may cost."""

from __future__ import annotations

from dataclasses import replace

from blackbox_delta.budget import Budget, Need
from blackbox_delta.errors import SpentError
from blackbox_delta.journal import check_reply
from blackbox_delta.types import Backend, ScoreRequest, Scores, Usage


def ask(backend: Backend, request: ScoreRequest) -> Scores:
    """A reply that may be used.

    Raises:
        BackendError: No sound reply could be had.
    """
    reply = backend.score(request)
    check_reply(request, reply)
    return reply


def ask_within(budget: Budget, backend: Backend, request: ScoreRequest, calls: int) -> Scores:
    """A reply that may be used, of which no more is sent than the budget pays for.

    Args:
        budget: Charged with what it cost, also if it came to nothing.
        backend: The model.
        request: What is asked; how much of it may be sent is filled in.
        calls: What the reply is charged as in calls.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    counts = backend.count_tokens(request)
    tokens = int(counts.sum()) * request.candidates
    written = request.queries * backend.capabilities.output_tokens
    need = Need("the next request", 0, request.queries, tokens, written)
    most = budget.most_sent(need, int(counts.max(initial=0)))
    try:
        scores = ask(backend, replace(request, max_sent=most))
    except SpentError as error:
        budget.charge(_in_vain(need, error), calls=0)
        raise
    budget.charge(scores.usage, calls)
    return scores


def _in_vain(need: Need, error: SpentError) -> Usage:
    """What queries cost that were sent for nothing; nobody says, so they count as all others."""
    share = error.sent / need.queries
    return Usage(
        error.sent - error.lost,
        round(need.tokens * share),
        output_tokens=round(need.output_tokens * share),
        lost=error.lost,
    )
