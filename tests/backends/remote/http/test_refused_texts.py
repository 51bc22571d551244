"""Texts that a server will not take, and what is asked in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sending import Server, job, jobs, sequence

from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.http.failures import TooLongError, WithheldError
from blackbox_delta.errors import AuthorisationError, RejectedError, RemoteError, SpentError


def test_a_refusal_tells_which_text_is_refused(send: Any) -> None:
    error = RejectedError("https://toy.example/v1 refuses the request (HTTP 400: content policy)")
    server = Server(lambda name, _attempt: error if name == 2 else "ok")
    asked = [replace(job(name), words=lambda at=name: f"text {at} of those") for name in range(4)]
    run = send(server, asked, concurrency=1)
    assert isinstance(run.error, RejectedError)
    assert str(run.error) == f"{error}; it was asked about 'text  … those'"
    assert (run.names, run.unanswered) == ([0, 1], [0])
    # One of several texts is not told apart.
    assert send(server, jobs(4), concurrency=1).error is error


STOPPED = WithheldError("toy refuses the request (HTTP 400: filtered)", "HTTP 400: filtered")


def test_a_text_that_a_filter_stops_has_its_value_and_may_be_billed(send: Any) -> None:
    server = Server(lambda name, _attempt: STOPPED if name == 2 else "ok")
    asked = [replace(job(name), withheld=len) for name in range(4)]
    run = send(server, asked, concurrency=1, max_sent=4)
    assert (run.error, run.lost, run.unanswered) == (None, 0, [0])
    assert run.names == [0, 1, len(STOPPED.reason), 3]
    assert server.attempts[2] == 1
    # So it counts in what may be sent.
    assert isinstance(send(server, asked, concurrency=1, max_sent=3).error, SpentError)


def test_without_a_value_it_is_refused_like_any_other(send: Any) -> None:
    asked = [replace(job(0), words=lambda: "a text of some length")]
    run = send(Server(sequence(STOPPED)), asked)
    assert isinstance(run.error, RejectedError)
    assert "it was asked about 'a tex … ength'" in str(run.error)
    assert run.unanswered == [0]


def test_texts_that_are_stopped_together_are_asked_about_one_by_one(send: Any) -> None:
    """One of several was meant, and nobody says which."""
    server = Server(lambda name, _attempt: STOPPED if name in (1, 11) else "ok")

    def each() -> list[Job[int]]:
        return [replace(job(name), withheld=lambda _: -1) for name in (10, 11, 12)]

    asked = [job(0, 3), replace(job(1, 3), apart=each), job(2, 3)]
    run = send(server, asked, concurrency=1)
    assert (run.error, run.unanswered) == (None, [0])
    assert run.names == [0, 10, -1, 12, 2]
    assert server.billable == 3 + 2 + 3


TOO_LONG = TooLongError("toy refuses the request (HTTP 400: maximum context length)")


def test_less_is_asked_about_until_it_fits(send: Any) -> None:
    """Jobs 12, 11 and 10 stand for ever less of one text."""

    def untold() -> str:
        raise AssertionError("no refusal stands")

    server = Server(lambda name, _attempt: TOO_LONG if name in (1, 11, 12) else "ok")

    def text(name: int) -> Job[int]:
        shorter = (lambda: text(name - 1)) if name > 10 else (lambda: None)
        return replace(job(name), words=untold, shorter=shorter)

    asked = [job(0), replace(job(1, 2), apart=lambda: [text(12), job(20)]), job(2)]
    run = send(server, asked, concurrency=1, max_sent=4)
    assert (run.error, run.lost, run.unanswered) == (None, 0, [0])
    assert run.names == [0, 10, 20, 2]
    # What is refused costs nothing.
    assert server.billable == 4


def test_where_nothing_is_left_to_cut_the_refusal_stands(send: Any) -> None:
    asked = [replace(job(0), words=lambda: "a text of some length", shorter=lambda: None)]
    run = send(Server(lambda _name, _attempt: TOO_LONG), asked)
    assert type(run.error) is TooLongError
    assert str(run.error) == f"{TOO_LONG}; it was asked about 'a tex … ength'"


def test_other_errors_are_not_about_a_text(send: Any) -> None:
    for error in (AuthorisationError("no key"), RemoteError("no credit")):
        asked = [replace(job(0), words=lambda: "text")]
        assert send(Server(sequence(error)), asked).error is error
