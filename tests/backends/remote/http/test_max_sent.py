"""How much may be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sending import Run, Server, job, jobs, sequence

from blackbox_delta.backends.remote.http.failures import Lost, Refused
from blackbox_delta.errors import SpentError

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
