"""Attempts that fail: pauses, and when to give up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sending import Server, job, jobs, sender, sequence

from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.http.failures import BrokenReply, Lost, Refused
from blackbox_delta.errors import RemoteError


def test_failures_are_retried_with_full_jitter_on_a_doubling_bound(send: Any) -> None:
    failures = [Refused("503"), Lost("reset"), "nonsense", Refused("503"), Lost("500")]
    server = Server(sequence(*failures))
    run = send(server, [job(0, queries=3)])
    assert run.names == [0]
    assert run.answers[0].lost == run.lost == run.sender.lost == 9
    assert run.unanswered == [0]
    expected = np.random.Generator(np.random.PCG64(7))
    waits = np.diff(server.sent_at(0)) - 1.0
    assert waits == pytest.approx([expected.uniform(0, 2**step) for step in range(5)])


def test_many_waits_fill_the_whole_range(send: Any) -> None:
    server = Server(sequence(Refused("503")))
    send(server, jobs(400), concurrency=1)
    waits = [np.diff(server.sent_at(name))[0] - 1.0 for name in range(400)]
    assert min(waits) < 0.03
    assert 0.97 < max(waits) <= 1.0001
    assert np.mean(waits) == pytest.approx(0.5, abs=0.06)


def test_retry_after_is_the_least_and_holds_for_all(send: Any) -> None:
    def behave(name: int, attempt: int) -> str | Exception:
        return Refused("429", retry_after=20.0) if (name, attempt) == (2, 0) else "ok"

    server = Server(behave)
    run = send(server, jobs(40), concurrency=4)
    assert sorted(run.names) == list(range(40))
    told = server.sent_at(2)[0] + 1.0
    assert server.sent_at(2)[1] >= told + 20
    assert not [time for _, time in server.times if told + 0.01 < time < told + 20]
    assert run.lost == 0


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return said


def test_a_long_pause_is_told_once(send: Any, caplog: pytest.LogCaptureFixture) -> None:
    """However many requests are told of it, one after the other."""
    pause = Refused("HTTP 429: quota", retry_after=30.0)
    server = Server(sequence(pause), latency=lambda name, _attempt: 1 + name / 10)
    run = send(server, jobs(8))
    assert sorted(run.names) == list(range(8))
    line = "https://toy.example/v1 asks for a pause of 30 s: HTTP 429: quota"
    assert told(caplog) == [line]
    send(Server(sequence(pause, pause)), jobs(1))
    assert told(caplog) == [line, line]


def test_a_pause_that_grows_is_told_again(send: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(
        lambda name, attempt: "ok" if attempt else Refused("429", retry_after=(12, 200)[name]),
        latency=lambda name, _attempt: 1.0 + name,
    )
    send(server, jobs(2))
    assert [line.split(": ")[1] for line in told(caplog)] == ["429", "429"]


@pytest.mark.parametrize("seconds", [None, 0.0, 10.0])
def test_a_short_pause_is_kept_in_silence(
    send: Any, caplog: pytest.LogCaptureFixture, seconds: float | None
) -> None:
    send(Server(sequence(Refused("429", retry_after=seconds))), jobs(8))
    assert told(caplog) == []


def test_a_pause_before_anything_is_scored_is_told_too(
    in_virtual_time: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A list of models may be what is refused."""
    failures = [Refused("HTTP 429", retry_after=60.0)]

    async def fetching() -> str:
        if failures:
            raise failures.pop()
        return "models"

    assert in_virtual_time(lambda: sender(Server()).fetch(fetching)) == "models"
    assert told(caplog) == ["https://toy.example/v1 asks for a pause of 60 s: HTTP 429"]


def test_after_a_pause_requests_are_spread_as_before(send: Any) -> None:
    """Also those that waited for their turn when the pause began, and when another one came."""

    def behave(name: int, attempt: int) -> str | Exception:
        pausing = (name, attempt) in ((2, 0), (9, 0))
        return Refused("429", retry_after=20.0) if pausing else "ok"

    server = Server(behave)
    run = send(server, jobs(40), requests_per_minute=120)
    assert sorted(run.names) == list(range(40))
    times = sorted(time for _, time in server.times)
    for name in (2, 9):
        told = server.sent_at(name)[0] + 1.0
        assert not [time for time in times if told + 0.01 < time < told + 20]
    # Two a second, of which one second's worth may go out at once.
    assert max(sum(0 <= time - first < 1 for time in times) for first in times) <= 4


def test_jitter_comes_on_top_of_what_the_server_asks_for(send: Any) -> None:
    server = Server(sequence(Refused("429", retry_after=20.0)))
    send(server, [job(0)])
    jitter = np.random.Generator(np.random.PCG64(7)).uniform(0, 1)
    assert np.diff(server.sent_at(0))[0] == pytest.approx(1 + 20 + jitter)


def test_a_job_that_never_succeeds_ends_the_run_and_says_why(send: Any) -> None:
    def behave(name: int, _attempt: int) -> str | Exception:
        return Lost("HTTP 500: out of ideas") if name == 3 else "ok"

    server = Server(behave)
    run = send(server, jobs(20), concurrency=2, attempts=4)
    assert isinstance(run.error, RemoteError)
    assert "toy.example/v1 failed 4 times" in str(run.error)
    assert "last: HTTP 500: out of ideas" in str(run.error)
    assert "answered is kept" in str(run.error)
    assert server.attempts[3] == 4
    assert set(run.names) == set(server.attempts) - {3}


def test_a_broken_reply_is_lost_and_its_reason_told(send: Any) -> None:
    run = send(Server(sequence(*["nonsense"] * 9)), [job(0)], attempts=3)
    assert "not what was asked for: it says nonsense" in str(run.error)
    assert run.sender.lost == 3


def test_an_error_in_place_of_a_reply_is_quoted_as_messages_are(send: Any) -> None:
    """Tidied by the transport, which knows the key."""

    class Discreet(Server):
        def tidy(self, text: str) -> str:
            return text.replace("sk-secret", "[key]")

    def refuse(_reply: Any) -> int:
        raise BrokenReply("the reply carries an error", {"message": "not for sk-secret"})

    run = send(Discreet(), [Job("x", job(0).body, refuse, 1, 1)], attempts=2)
    assert "the reply carries an error: not for [key]" in str(run.error)
    assert run.sender.lost == 2


def test_the_circuit_opens_when_everything_fails(send: Any) -> None:
    server = Server(lambda _name, _attempt: Refused("HTTP 503: overloaded"))
    run = send(server, jobs(500), attempts=1000)
    assert isinstance(run.error, RemoteError)
    assert "times in a row" in str(run.error)
    assert "x HTTP 503: overloaded" in str(run.error)
    assert 60 <= run.ended < 180


def test_waiting_as_told_does_not_open_the_circuit(send: Any) -> None:
    server = Server(sequence(*[Refused("429", retry_after=10.0)] * 6))
    run = send(server, jobs(10))
    assert run.error is None
    assert sorted(run.names) == list(range(10))


def test_what_was_learnt_outlives_a_call(in_virtual_time: Any) -> None:
    server = Server()

    async def main() -> list[int]:
        one = sender(server)
        limits = [one.limit]
        for _ in range(2):
            await one.send_all(jobs(400), lambda _answered: None)
            limits.append(one.limit)
        return limits

    limits = in_virtual_time(main)
    assert limits[0] < limits[1] <= limits[2]
