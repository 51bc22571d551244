from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest
from faulty_server import LOSING, REFUSING, FaultyServer, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.http.failures import (
    BrokenReply,
    Lost,
    Refused,
    TooLongError,
    WithheldError,
)
from blackbox_delta.backends.remote.http.sender import Sender
from blackbox_delta.backends.remote.http.transport import Transport
from blackbox_delta.errors import (
    AuthorisationError,
    DataError,
    JournalError,
    RejectedError,
    RemoteError,
    SpentError,
)

#: What the server does with attempt number ``attempt`` (from 0) of job ``name``.
Behaviour = Callable[[int, int], "str | Exception"]


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """A stand-in for a transport. Keeps the books that a provider would keep."""

    base_url = "https://toy.example/v1"

    def __init__(
        self,
        behave: Behaviour = lambda _name, _attempt: "ok",
        latency: Callable[[int, int], float] = lambda _name, _attempt: 1.0,
        max_sent: float = np.inf,
    ) -> None:
        self.behave, self.latency, self.max_sent = behave, latency, max_sent
        self.attempts: Counter[int] = Counter()
        self.times: list[tuple[int, float]] = []
        self.in_flight = self.most_in_flight = 0
        self.billable = self.outstanding = 0

    def tidy(self, text: str) -> str:
        return text

    def excerpt(self, text: str) -> str:
        return f"{text[:5]} … {text[-5:]}"

    async def post(self, _path: str, body: bytes) -> Any:
        name, queries = json.loads(body)
        attempt = self.attempts[name]
        self.attempts[name] += 1
        self.times.append((name, now()))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.outstanding += queries
        assert self.billable + self.outstanding <= self.max_sent, "more was sent than allowed"
        what = self.behave(name, attempt)
        billed = isinstance(what, (str, Lost))
        try:
            await anyio.sleep(self.latency(name, attempt))
        except BaseException:
            billed = True  # cancelled on the way: the provider will not know
            raise
        finally:
            self.in_flight -= 1
            self.outstanding -= queries
            self.billable += queries * billed
        if isinstance(what, Exception):
            raise what
        return {"name": name, "said": what}

    def sent_at(self, name: int) -> list[float]:
        return [time for one, time in self.times if one == name]


def read(reply: Any) -> int:
    if reply["said"] != "ok":
        raise BrokenReply(f"it says {reply['said']}")
    return int(reply["name"])


def job(name: int, queries: int = 1, tokens: int = 1) -> Job[int]:
    return Job("completions", lambda: json.dumps([name, queries]).encode(), read, queries, tokens)


def jobs(count: int, queries: int = 1) -> list[Job[int]]:
    return [job(name, queries) for name in range(count)]


def sender(server: Any, **options: Any) -> Sender:
    options.setdefault("rng", np.random.Generator(np.random.PCG64(7)))
    return Sender(server, clock=now, **options)


def sequence(*outcomes: str | Exception) -> Behaviour:
    """The same outcomes for every job, then success."""
    return lambda _name, attempt: outcomes[attempt] if attempt < len(outcomes) else "ok"


class Run:
    """One ``send_all`` in virtual time and everything that came of it."""

    def __init__(self, in_virtual_time: Any, server: Server, work: Any, **options: Any) -> None:
        self.answers: list[Answered[int]] = []
        self.error: Exception | None = None
        self.lost: int | None = None
        self.unanswered: list[int] = []
        max_sent = options.pop("max_sent", None)
        on_answer = options.pop("on_answer", self.answers.append)

        async def main() -> None:
            self.sender = sender(server, **options)
            try:
                self.lost = await self.sender.send_all(
                    work, on_answer, max_sent=max_sent, on_end=self.unanswered.append
                )
            except Exception as error:
                self.error = error
            self.ended = now()

        in_virtual_time(main)

    @property
    def names(self) -> list[int]:
        return [answered.value for answered in self.answers]


@pytest.fixture
def send(in_virtual_time: Any) -> Callable[..., Run]:
    return lambda server, work, **options: Run(in_virtual_time, server, work, **options)


# ----------------------------------------------------------------------------- sending


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


# ---------------------------------------------------------------------------- retrying


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
    server = Server(lambda name, _attempt: TOO_LONG if name in (1, 11, 12) else "ok")

    def text(name: int) -> Job[int]:
        shorter = (lambda: text(name - 1)) if name > 10 else (lambda: None)
        return replace(job(name), words=lambda: f"text {name} of those", shorter=shorter)

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


# ----------------------------------------------------------------------------- ending


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


# ----------------------------------------------------------------------------- max_sent

OUTCOMES = st.sampled_from(["ok", "ok", "nonsense", "refused", "wait", "lost", "lost"])


def outcome(word: str) -> str | Exception:
    failures: dict[str, Callable[[], Exception]] = {
        "refused": lambda: Refused("503"),
        "wait": lambda: Refused("429", retry_after=1.5),
        "lost": lambda: Lost("reset"),
    }
    return failures[word]() if word in failures else word


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(st.lists(OUTCOMES, max_size=4), min_size=1, max_size=100),
    sizes=st.lists(st.integers(1, 5), min_size=100, max_size=100),
    latencies=st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0]), min_size=1, max_size=7),
    slack=st.integers(-40, 60),
)
def test_no_more_is_sent_than_allowed_and_no_less_is_done(
    in_virtual_time: Any,
    plan: list[list[str]],
    sizes: list[int],
    latencies: list[float],
    slack: int,
) -> None:
    work = [job(name, sizes[name]) for name in range(len(plan))]
    needed = sum(one.queries for one in work)
    max_sent = max(0, needed + slack)

    def behave(name: int, attempt: int) -> str | Exception:
        return outcome(plan[name][attempt]) if attempt < len(plan[name]) else "ok"

    def latency(name: int, attempt: int) -> float:
        return latencies[(3 * name + attempt) % len(latencies)]

    server = Server(behave, latency, max_sent)
    run = Run(in_virtual_time, server, work, max_sent=max_sent)
    assert server.outstanding == 0
    assert len(set(run.names)) == len(run.names)
    answered = sum(one.job.queries for one in run.answers)
    assert server.billable == answered + run.sender.lost
    told = answered + sum(one.lost for one in run.answers)
    assert run.unanswered == [server.billable - told]
    would_lose = sum(
        sizes[name] * sum(word in ("lost", "nonsense") for word in before_success(words))
        for name, words in enumerate(plan)
    )
    if needed + would_lose <= max_sent:
        assert run.error is None
        assert run.lost == would_lose
        assert sorted(run.names) == list(range(len(plan)))
    else:
        assert isinstance(run.error, SpentError)
        assert run.error.sent == server.billable <= max_sent


def before_success(words: list[str]) -> list[str]:
    return words[: words.index("ok")] if "ok" in words else words


def test_a_budget_of_exactly_what_is_needed_suffices_despite_refusals(send: Any) -> None:
    refusals = sequence(Refused("503"), Refused("503"))
    server = Server(refusals, lambda _name, _attempt: 0.1, max_sent=300)
    run = send(server, jobs(300), max_sent=300)
    assert run.error is None
    assert len(run.names) == 300


def test_answers_under_way_are_delivered_when_the_budget_ends(send: Any) -> None:
    def behave(name: int, attempt: int) -> str | Exception:
        return Lost("reset") if (name, attempt) == (0, 0) else "ok"

    server = Server(behave, latency=lambda name, _attempt: 50.0 if name == 7 else 1.0)
    run = send(server, jobs(8), max_sent=8)
    assert isinstance(run.error, SpentError)
    assert sorted(run.names) == [1, 2, 3, 4, 5, 6, 7]
    assert run.error.sent == 8
    assert "1 of them on replies that were lost" in str(run.error)


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
