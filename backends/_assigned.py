"""Requests that ask about each prompt under a candidate of its own."""

from __future__ import annotations

from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import ScoreRequest


def check_assignment(request: ScoreRequest, taker: str, *, able: bool = True) -> None:
    """Makes sure that an assignment, where there is one, names a candidate for every prompt.

    Args:
        request: What is asked.
        taker: Who is asked, for messages.
        able: Whether assignments are taken at all.

    Raises:
        UnsupportedError: It does not, or none is taken.
    """
    given = request.assignment
    if given is None:
        return
    if not able:
        raise UnsupportedError(
            f"{taker} asks about every prompt under every candidate; leave the assignment out and "
            "send one request for each candidate"
        )
    count = 0 if request.delta is None else len(request.delta)
    if len(given) != len(request.prompts) or not all(0 <= each < count for each in given):
        raise UnsupportedError(
            f"the assignment must name one of {count} candidates for each of "
            f"{len(request.prompts)} prompts, and is {list(given)}"
        )
