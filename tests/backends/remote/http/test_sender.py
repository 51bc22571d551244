from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import numpy as np
import pytest
from faulty_server import LOSING, REFUSING, FaultyServer, seeded
from sending import Server, job, jobs, now, read, sender, sequence

from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.http.failures import BrokenReply, Lost, Refused
from blackbox_delta.backends.remote.http.sender import Sender
from blackbox_delta.backends.remote.http.transport import Transport
from blackbox_delta.errors import AuthorisationError, DataError, JournalError, RemoteError

# ------------------------------------------------------------------------------ sending


def test_every_job_is_answered_once(send: Any) -> None:
    server = Server(latency=lambda name, _attempt: 1 + name * 7 % 5)
    run = send(server, jobs(300))
    assert run.error is None
    assert run.lost == 0
    assert sorted(run.names) == list(range(300))
    assert max(server.attempts.values()) == 1
    assert 8 < server.most_in_flight <= 64
    assert all(answered.job.queries == 1 for answered in run.answers)
    assert {round(answered.seconds, 6) for answered in run.answers} == {1, 2, 3, 4, 5}


def test_jobs_are_sent_in_order_and_drawn_only_as_needed(send: Any) -> None:
    drawn: list[int] = []
    ahead: list[int] = []

    def stream() -> Iterator[Job[int]]:
        for name in range(50):
            drawn.append(name)
            yield job(name)

    server = Server()
    run = send(server, stream(), concurrency=4, on_answer=lambda _one: ahead.append(len(drawn)))
    assert run.error is None
    assert [name for name, _ in server.times] == list(range(50))
    assert all(seen <= answered + 4 for answered, seen in enumerate(ahead))


def test_nothing_to_send_is_fine(send: Any) -> None:
    assert send(Server(), []).lost == 0


def test_rate_limits_hold(send: Any) -> None:
    server = Server()
    run = send(server, jobs(61), requests_per_minute=30)
    assert run.error is None
    assert run.ended == pytest.approx(121, abs=0.1)


# ------------------------------------------------------------------------------- ending


def test_a_lasting_error_ends_the_run_but_not_what_is_paid_for(send: Any) -> None:
    def behave(name: int, _attempt: int) -> str | Exception:
        return AuthorisationError("wrong key") if name == 0 else "ok"

    # 0 fails at 1 s; the others are under way then, and as long as they like.
    server = Server(behave, latency=lambda name, _attempt: 100.0 if name > 5 else 1.0 + name / 2)
    run = send(server, jobs(100))
    assert isinstance(run.error, AuthorisationError)
    assert set(server.attempts) == set(range(8))
    assert sorted(run.names) == [1, 2, 3, 4, 5, 6, 7]
    assert run.ended == pytest.approx(100.0, abs=0.1)
    assert run.sender.lost == 0


def test_a_lasting_error_is_not_retried(send: Any) -> None:
    server = Server(sequence(RemoteError("no such model")))
    assert str(send(server, jobs(1)).error) == "no such model"
    assert server.attempts == {0: 1}


def test_waiting_jobs_end_at_once_when_another_fails_for_good(send: Any) -> None:
    def behave(name: int, _attempt: int) -> str | Exception:
        return RemoteError("gone") if name == 1 else Refused("429", retry_after=250.0)

    server = Server(behave, latency=lambda name, _attempt: 1.0 + name)
    run = send(server, jobs(2))
    assert str(run.error) == "gone"
    assert run.ended == pytest.approx(2.0, abs=0.1)


def test_whatever_on_answer_raises_cancels_the_rest(send: Any) -> None:
    seen: list[int] = []

    def full_disk(answered: Answered[int]) -> None:
        seen.append(answered.value)
        if len(seen) == 3:
            raise JournalError("no space left on device")

    server = Server(latency=lambda name, _attempt: 1.0 + name)
    run = send(server, jobs(50), on_answer=full_disk)
    assert isinstance(run.error, JournalError)
    assert seen == [0, 1, 2]
    assert run.unanswered == [server.billable - 2], "the third was not taken"
    assert run.ended == pytest.approx(3.0, abs=0.1)


def test_a_mistake_in_a_body_a_reader_or_the_jobs_is_raised_as_it_is(send: Any) -> None:
    def broken_jobs() -> Iterator[Job[int]]:
        yield job(0)
        raise DataError("no more")

    def fail(*_args: Any) -> Any:
        raise KeyError("oops")

    assert isinstance(send(Server(), broken_jobs()).error, DataError)
    assert isinstance(send(Server(), [Job("x", fail, read, 1, 1)]).error, KeyError)
    assert isinstance(send(Server(), [Job("x", job(0).body, fail, 1, 1)]).error, KeyError)


def test_cancelling_ends_promptly_wherever_it_strikes(in_virtual_time: Any) -> None:
    """Some jobs are under way then, some wait for a slot, some for their next attempt."""

    async def main() -> float:
        server = Server(lambda name, _attempt: Lost("x") if name % 2 else "ok")
        answers: list[Answered[int]] = []
        ends: list[int] = []
        with anyio.move_on_after(5.3):
            await sender(server, requests_per_minute=600).send_all(
                jobs(10_000), answers.append, on_end=ends.append
            )
        assert server.in_flight == 0
        assert ends == [server.billable - sum(1 + one.lost for one in answers)] != [0]
        return now()

    assert in_virtual_time(main) == pytest.approx(5.3, abs=0.01)


# ------------------------------------------------------------------------ a real server


def completion(prompt: str) -> Job[str]:
    body = json.dumps({"model": "toy", "prompt": prompt, "logprobs": 1}).encode()

    def read_text(reply: Any) -> str:
        try:
            [choice] = reply["choices"]
            if len(choice["logprobs"]["top_logprobs"]) != 1:
                raise BrokenReply("no log-probabilities")
            return str(choice["text"])
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenReply(f"a field is missing: {error!r}") from None

    return Job("completions", lambda: body, read_text, 1, 1)


def test_over_real_sockets_every_fault_is_survived_and_nothing_is_paid_twice(
    in_real_time: Any,
) -> None:
    import toy_api

    prompts = [f"prompt number {number}" for number in range(60)]
    kinds = sorted(REFUSING | LOSING, key=lambda kind: kind.value)
    answers: dict[str, str] = {}
    server = FaultyServer(seeded(3, 0.4, kinds, most_in_a_row=2), bomb_bytes=2_000_000)

    async def main() -> int:
        transport = Transport(server.url, secret=None, timeout=1.5, max_bytes=1_000_000)
        await transport.get("models")

        def keep(answered: Answered[str]) -> None:
            prompt = json.loads(answered.job.body())["prompt"]
            assert prompt not in answers
            answers[prompt] = answered.value

        async def quickly(seconds: float) -> None:
            await anyio.sleep(seconds / 100)

        quick = Sender(transport, rng=np.random.Generator(np.random.PCG64(0)), sleep=quickly)
        try:
            return await quick.send_all(map(completion, prompts), keep)
        finally:
            await transport.aclose()

    with server:
        lost = in_real_time(main)
    expected = {one: toy_api.WORDS[int(toy_api.log_probs(one).argmax())] for one in prompts}
    assert answers == expected
    assert set(server.answered.values()) == {1}
    assert lost == sum(count for fault, count in server.faults.items() if fault in LOSING)
    assert lost > 5
