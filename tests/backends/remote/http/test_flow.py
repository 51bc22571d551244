from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.remote.http.flow import AdaptiveLimit, Circuit, Outcome, Rates


def now() -> float:
    return asyncio.get_running_loop().time()


class Pool:
    """A server with so many workers, each busy for so long with a request."""

    def __init__(self, workers: int, seconds: float = 1.0) -> None:
        self.workers, self.seconds = workers, seconds
        self._busy = 0
        self._queue: list[anyio.Event] = []

    async def serve(self) -> None:
        turn = anyio.Event()
        self._queue.append(turn)
        self._call()
        await turn.wait()
        await anyio.sleep(self.seconds)
        self._busy -= 1
        self._call()

    def _call(self) -> None:
        while self._queue and self._busy < self.workers:
            self._busy += 1
            self._queue.pop(0).set()


class Batcher:
    """A server that takes a + b L seconds with L requests in flight."""

    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = a, b
        self._busy = 0

    async def serve(self) -> None:
        self._busy += 1
        await anyio.sleep(self.a + self.b * self._busy)
        self._busy -= 1


class Load:
    """Clients that keep asking through a limit, and what came of it."""

    def __init__(self, limit: AdaptiveLimit, server: Any) -> None:
        self.limit, self.server = limit, server
        self.answers: list[float] = []
        self.limits: list[tuple[float, int]] = []
        self.in_flight = self.most_in_flight = 0

    async def run(self, until: float, clients: int = 64) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(self._client, until)

    async def _client(self, until: float) -> None:
        while now() < until:
            slot = await self.limit.acquire()
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            start = now()
            await self.server.serve()
            self.in_flight -= 1
            self.answers.append(now())
            self.limit.release(slot, Outcome.ANSWERED, now() - start)
            self.limits.append((now(), self.limit.limit))

    def throughput(self, start: float, end: float) -> float:
        return sum(start <= time < end for time in self.answers) / (end - start)

    def mean_limit(self, start: float, end: float) -> float:
        inside = [limit for time, limit in self.limits if start <= time < end]
        return sum(inside) / len(inside)


# ---------------------------------------------------------------------- AdaptiveLimit


@pytest.mark.parametrize("workers", [8, 13, 20, 40])
def test_the_limit_settles_near_the_knee(in_virtual_time: Any, workers: int) -> None:
    async def run() -> Load:
        load = Load(AdaptiveLimit(64), Pool(workers))
        await load.run(until=600)
        return load

    load = in_virtual_time(run)
    assert workers * 0.9 <= load.mean_limit(200, 600) <= max(2.25 * workers, 16)
    assert load.throughput(200, 600) >= 0.95 * workers


@pytest.mark.parametrize("b", [0.005, 0.02, 0.1, 0.5, 2.0])
def test_a_batching_server_gives_nearly_all_it_has(in_virtual_time: Any, b: float) -> None:
    async def run() -> Load:
        load = Load(AdaptiveLimit(64), Batcher(1.0, b))
        await load.run(until=600)
        return load

    load = in_virtual_time(run)
    with_64_in_flight = 64 / (1 + 64 * b)
    assert load.throughput(300, 600) >= 0.92 * with_64_in_flight
    assert load.most_in_flight <= 64


def test_the_start_is_quick(in_virtual_time: Any) -> None:
    async def run() -> Load:
        load = Load(AdaptiveLimit(64), Batcher(1.0, 0.001))
        await load.run(until=20)
        return load

    assert in_virtual_time(run).limits[-1][1] == 64


def test_it_falls_when_the_server_loses_workers_and_rises_when_they_return(
    in_virtual_time: Any,
) -> None:
    async def run() -> Load:
        pool = Pool(40)
        load = Load(AdaptiveLimit(64), pool)
        await load.run(until=100)
        pool.workers = 8
        await load.run(until=400)
        pool.workers = 40
        await load.run(until=700)
        return load

    load = in_virtual_time(run)
    assert load.mean_limit(50, 100) > 35
    assert load.mean_limit(300, 400) < 20
    assert load.mean_limit(600, 700) > 35


def test_it_recovers_where_the_server_only_became_slower(in_virtual_time: Any) -> None:
    """Old latencies must not hold the limit down for ever."""

    async def run() -> Load:
        pool = Pool(64)
        load = Load(AdaptiveLimit(64), pool)
        await load.run(until=100)
        pool.seconds = 4.0
        await load.run(until=1000)
        return load

    load = in_virtual_time(run)
    assert load.mean_limit(700, 1000) > 55


def test_few_requests_teach_nothing_about_many(in_virtual_time: Any) -> None:
    async def run() -> Load:
        load = Load(AdaptiveLimit(64), Pool(64))
        await load.run(until=200, clients=3)
        return load

    assert in_virtual_time(run).limits[-1][1] == 8


def test_a_burst_of_refusals_counts_once(in_virtual_time: Any) -> None:
    async def run() -> list[int]:
        limit = AdaptiveLimit(64)
        seen = [limit.limit]
        for _ in range(5):
            slots = [await limit.acquire() for _ in range(limit.limit)]
            for slot in slots:
                limit.release(slot, Outcome.CROWDED)
            seen.append(limit.limit)
        return seen

    assert in_virtual_time(run) == [8, 4, 2, 1, 1, 1]


def test_other_failures_leave_the_limit_alone(in_virtual_time: Any) -> None:
    async def run() -> int:
        limit = AdaptiveLimit(64)
        for _ in range(100):
            limit.release(await limit.acquire(), Outcome.OTHER)
        return limit.limit

    assert in_virtual_time(run) == 8


@pytest.mark.parametrize("most", [1, 5, 8])
def test_the_most_is_never_exceeded(in_virtual_time: Any, most: int) -> None:
    async def run() -> Load:
        load = Load(AdaptiveLimit(most), Pool(64))
        await load.run(until=100)
        return load

    assert in_virtual_time(run).most_in_flight == most


def test_slots_go_to_those_who_waited_longest_and_not_to_those_who_left(
    in_virtual_time: Any,
) -> None:
    async def run() -> list[str]:
        limit = AdaptiveLimit(1)
        order: list[str] = []
        slot = await limit.acquire()

        async def want(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                mine = await limit.acquire()
                try:
                    order.append(name)
                    await anyio.sleep(1)
                finally:
                    limit.release(mine, Outcome.OTHER)

        scopes = {name: anyio.CancelScope() for name in "abcd"}
        async with anyio.create_task_group() as tasks:
            for name, scope in scopes.items():
                tasks.start_soon(want, name, scope)
            await anyio.sleep(1)
            scopes["b"].cancel()  # while it waits
            await anyio.sleep(1)
            limit.release(slot, Outcome.OTHER)
            scopes["a"].cancel()  # when it was just granted
        assert limit.in_flight == 0
        return order

    assert [name for name in in_virtual_time(run) if name in "cd"] == ["c", "d"]


@given(
    st.lists(st.tuples(st.sampled_from(list(Outcome)), st.floats(0, 10)), max_size=300),
    st.integers(1, 64),
)
def test_whatever_happens_the_limit_stays_in_its_bounds(
    in_virtual_time: Any, ends: list[tuple[Outcome, float]], most: int
) -> None:
    async def run() -> None:
        limit = AdaptiveLimit(most)
        slots = []
        for outcome, seconds in ends:
            if limit.in_flight < limit.limit:
                slots.append(await limit.acquire())
            else:
                limit.release(slots.pop(0), outcome, seconds)
            assert 1 <= limit.limit <= most

    in_virtual_time(run)


# ------------------------------------------------------------------------------ Rates


def admissions(run: Any, rates: Callable[[], Rates], sizes: list[int]) -> list[float]:
    async def main() -> list[float]:
        limiter, times = rates(), []

        async def one(tokens: int) -> None:
            await limiter.admit(tokens)
            times.append(now())

        async with anyio.create_task_group() as tasks:
            for tokens in sizes:
                tasks.start_soon(one, tokens)
        return times

    result: list[float] = run(main)
    return result


def most_in_a_minute(times: list[float], weights: list[int]) -> int:
    return max(
        sum(weight for time, weight in zip(times, weights, strict=True) if 0 <= time - start < 60)
        for start in times
    )


@pytest.mark.parametrize("per_minute", [1, 7, 30, 240])
def test_no_minute_holds_more_requests_than_allowed(in_virtual_time: Any, per_minute: int) -> None:
    count = per_minute * 3 + 1
    times = admissions(in_virtual_time, lambda: Rates(per_minute, None), [5] * count)
    assert most_in_a_minute(times, [1] * count) <= per_minute
    assert times[-1] <= 60 * 3 * 1.03  # and it does not dawdle


def test_tokens_are_spread_over_the_minute(in_virtual_time: Any) -> None:
    sizes = [100, 700, 50, 1] * 20
    times = admissions(in_virtual_time, lambda: Rates(None, 3000), sizes)
    assert times == sorted(times)
    # A request's tokens are collected before it is sent, so its own size comes on top.
    assert most_in_a_minute(times, sizes) <= 3000 + max(sizes)
    assert times[-1] == pytest.approx(sum(sizes) / 3000 * 60, rel=0.05)


def test_a_request_larger_than_a_minute_takes_a_minute(in_virtual_time: Any) -> None:
    times = admissions(in_virtual_time, lambda: Rates(None, 600), [10_000, 10])
    assert times[0] == pytest.approx(60, rel=0.05)
    assert times[1] == pytest.approx(61, rel=0.05)


def test_without_limits_nothing_waits(in_virtual_time: Any) -> None:
    assert set(admissions(in_virtual_time, lambda: Rates(None, None), [9] * 50)) == {0.0}


# ---------------------------------------------------------------------------- Circuit


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_the_circuit_needs_many_failures_over_some_time() -> None:
    clock = Clock()
    circuit = Circuit(clock, failures=10, seconds=30)
    # A burst, however large, may be one hiccup.
    assert not [story for _ in range(64) if (story := circuit.failed("HTTP 503", 0.1))]
    clock.time += 29.8
    assert circuit.failed("HTTP 503", 0.1) is None
    clock.time += 0.2
    assert circuit.failed("reset", 0.1) == "failed 66 times in a row (65 x HTTP 503, 1 x reset)"


def test_time_without_a_reply_counts_from_when_it_was_sent() -> None:
    circuit = Circuit(Clock(), failures=3, seconds=30)
    assert circuit.failed("timeout", 60.0) is None
    assert circuit.failed("timeout", 60.0) is None
    assert circuit.failed("timeout", 60.0) is not None


def test_one_answer_closes_the_circuit() -> None:
    clock = Clock()
    circuit = Circuit(clock, failures=3, seconds=30)
    for _ in range(10):
        clock.time += 100
        assert circuit.failed("x", 0) is None
        clock.time += 100
        assert circuit.failed("x", 0) is None
        circuit.succeeded()


def test_an_opened_circuit_lets_a_later_call_try() -> None:
    clock = Clock()
    circuit = Circuit(clock, failures=1, seconds=0)
    assert circuit.failed("x", 0) is not None
    circuit = Circuit(clock, failures=2, seconds=0)
    assert [circuit.failed("x", 0) is None for _ in range(4)] == [True, False, True, False]
