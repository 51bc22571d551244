"""Many requests to one server: as many at once as it bears, again where it failed, within a cap."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from blackbox_delta.backends.remote.http.exchange import Answered, Job, Posts
from blackbox_delta.backends.remote.http.failures import (
    BrokenReply,
    FailedError,
    Lost,
    Refused,
    TooLongError,
    Transient,
    WithheldError,
)
from blackbox_delta.backends.remote.http.flow import AdaptiveLimit, Circuit, Outcome, Rates
from blackbox_delta.backends.remote.http.replies import said_by
from blackbox_delta.errors import RejectedError, RemoteError, SpentError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 60.0
#: A pause of more seconds than these, or one longer by as much, is told: else it looks like a hang.
_LONG_PAUSE = 10.0
_WHAT_NOW = "What was answered is kept: check the server, then resume"


class Sender:
    """Sends jobs over one transport. Limits and the circuit live as long as it does.

    Args:
        transport: Where to.
        concurrency: The most requests in flight.
        requests_per_minute: A limit that the server sets; ``None`` for none.
        tokens_per_minute: The same for prompt tokens.
        attempts: How often a job is tried in all.
        rng: Draws the jitter between attempts.
        clock: Seconds on a clock that never goes back.
        sleep: Waits for so many seconds of it.

    Attributes:
        lost: Queries that were sent and lost, by all calls so far.
    """

    def __init__(
        self,
        transport: Posts,
        *,
        rng: np.random.Generator,
        concurrency: int = 64,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        attempts: int = 8,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.lost = 0
        self._transport, self._attempts = transport, attempts
        self._clock, self._sleep, self._rng = clock, sleep, rng
        self._concurrency = concurrency
        self._limit = AdaptiveLimit(concurrency)
        self._rates = Rates(requests_per_minute, tokens_per_minute)
        self._circuit = Circuit(clock)
        self._paused_until = self._told_until = -math.inf

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limit.limit

    async def send_all(
        self,
        jobs: Iterable[Job[T]],
        on_answer: Callable[[Answered[T]], None],
        *,
        max_sent: int | None = None,
        on_end: Callable[[int], None] = lambda _unanswered: None,
    ) -> int:
        """Sends ``jobs`` in order, many at a time; answers come in any order.

        Args:
            jobs: Drawn one by one as there is room to send.
            on_answer: Called once for each job, as soon as its reply was read. Whatever it raises
                cancels the rest and is raised.
            max_sent: The most queries that may be billed: those answered, lost and under way.
            on_end: Called once when nothing is under way any more, however that came, with the
                queries that were sent and that no answer handed to ``on_answer`` tells of.

        Returns:
            Queries that were sent, lost and sent again.

        Raises:
            SpentError: Another attempt would exceed ``max_sent``. What was in flight has ended.
            AuthorisationError: The key is not accepted.
            RemoteError: A job failed for good, or everything fails. What was in flight has ended,
                and what was answered was delivered.
        """
        batch = _Batch(self, iter(jobs), on_answer, max_sent)
        try:
            return await batch.run(self._concurrency)
        finally:
            on_end(batch.unanswered)

    async def fetch(self, fetching: Callable[[], Awaitable[R]]) -> R:
        """What one attempt at a request gives that nothing is billed for, tried as often as a job.

        Raises:
            RemoteError: It failed for good.
        """

        async def attempt() -> R:
            try:
                return await fetching()
            except Refused as failure:
                self._tell_pause(failure)
                raise

        try:
            return await self._retrying(self._sleep)(attempt)
        except Transient as failure:
            reason = failure.reason
        raise RemoteError(
            f"{self._transport.base_url} failed {self._attempts} times to answer; last: {reason}"
        )

    def _retrying(self, sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=sleep,
            stop=stop_after_attempt(self._attempts),
            wait=self._backoff,
            retry=retry_if_exception_type(Transient),
            reraise=True,
        )

    async def _admitted(self, tokens: int) -> None:
        """Waits until one more request may be sent, by the rates and by the server's own word.

        The rates come last: what waited out a pause with its leave in hand would go out at once.
        """
        await self._unpaused()
        await self._rates.admit(tokens)
        while self._paused_until > self._clock():
            await self._unpaused()
            await self._rates.admit(tokens)

    async def _unpaused(self) -> None:
        """Waits while the server wants to be left alone."""
        while (seconds := self._paused_until - self._clock()) > 0:
            await self._sleep(seconds)

    def _backoff(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: full jitter below a bound that doubles each time.

        What the server asks for comes on top of it.
        """
        bound = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** (state.attempt_number - 1))
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.retry_after if isinstance(failure, Refused) else None
        return (asked or 0.0) + float(self._rng.uniform(0, bound))

    def _tell_pause(self, failure: Refused) -> None:
        """Warns of a long pause, once: all that were in flight are told of the same one."""
        seconds, now = failure.retry_after or 0.0, self._clock()
        if now + seconds - max(now, self._told_until) <= _LONG_PAUSE:
            return
        self._told_until = now + seconds
        logger.warning(
            "%s asks for a pause of %.0f s: %s",
            self._transport.base_url,
            seconds,
            failure.reason,
        )

    def _learn(self, failure: Transient, seconds: float) -> None:
        """Draws the conclusions for all jobs from an attempt that failed after ``seconds``.

        Raises:
            RemoteError: Nothing but failures came for a while.
        """
        if isinstance(failure, Refused) and failure.retry_after is not None:
            # It is alive, and says when to come back.
            self._tell_pause(failure)
            self._paused_until = max(self._paused_until, self._clock() + failure.retry_after)
        elif story := self._circuit.failed(failure.reason, seconds):
            raise RemoteError(f"{self._transport.base_url} {story}. {_WHAT_NOW}") from None


class _Stopped(Exception):  # noqa: N818 - a signal
    """The batch is ending: thrown through whoever waits."""


class _SpentUp(Exception):  # noqa: N818 - a signal
    """Another attempt would exceed what may be sent."""


@dataclass
class _Tally:
    """What was spent on one job."""

    attempts: int = 0
    lost: int = 0


class _Batch(Generic[T]):
    """One call of :meth:`Sender.send_all`."""

    def __init__(
        self,
        sender: Sender,
        jobs: Iterator[Job[T]],
        on_answer: Callable[[Answered[T]], None],
        max_sent: int | None,
    ) -> None:
        self._sender, self._jobs, self._on_answer = sender, jobs, on_answer
        self._max_sent = math.inf if max_sent is None else max_sent
        # Queries answered, lost or under way; of those, the lost ones, and those told of.
        self._sent = self._lost = self._told = 0
        self._error: Exception | None = None
        self._tasks = anyio.create_task_group()
        self._waits: set[anyio.CancelScope] = set()

    @property
    def unanswered(self) -> int:
        """Queries sent so far that no answer tells of that somebody took."""
        return self._sent - self._told

    async def run(self, workers: int) -> int:
        async with self._tasks:
            for _ in range(workers):
                self._tasks.start_soon(self._work)
        if isinstance(self._error, _SpentUp):
            raise SpentError(
                f"{self._sent} of the {self._max_sent} queries that may be sent are spent, "
                f"{self._lost} of them on replies that were lost, and more are needed; what was "
                "answered is kept",
                self._sent,
                self._lost,
            )
        if self._error is not None:
            raise self._error
        return self._lost

    async def _work(self) -> None:
        try:
            while self._error is None and (job := next(self._jobs, None)) is not None:
                await self._see_to(job)
        except _Stopped:
            pass
        except (_SpentUp, RemoteError) as error:
            # What is in flight is being paid for, and has a time-out of its own.
            self._stop(error)
        except Exception as error:
            # A mistake in somebody's iterator, body or read.
            self._stop(error, at_once=True)

    async def _see_to(self, job: Job[T]) -> None:
        try:
            self._deliver(await self._see_through(job))
        except RejectedError as error:
            instead = _instead(job, error)
            if not instead:
                raise self._about_text(job, error) from None
            for one in instead:
                await self._see_to(one)

    def _about_text(self, job: Job[T], error: RejectedError) -> RejectedError:
        """A refusal that stands, with the text that it is about where there is one."""
        if job.words is None:
            return error
        text = self._sender._transport.excerpt(job.words())
        kind = TooLongError if isinstance(error, TooLongError) else RejectedError
        return kind(f"{error}; it was asked about {text!r}")

    def _deliver(self, answered: Answered[T]) -> None:
        try:
            self._on_answer(answered)
        except Exception as error:
            self._stop(error, at_once=True)
            raise _Stopped from None
        self._told += answered.job.queries + answered.lost

    def _stop(self, error: Exception, *, at_once: bool = False) -> None:
        """Sends nothing more; what is in flight ends by itself unless ``at_once``."""
        self._error = self._error or error
        for scope in self._waits:
            scope.cancel()
        if at_once:
            self._tasks.cancel_scope.cancel()

    async def _wait(self, wait: Callable[[], Awaitable[R]]) -> R:
        """Waits for leave to send; cut short when the batch ends."""
        if self._error is not None:
            raise _Stopped
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                return await wait()
            finally:
                self._waits.discard(scope)
        raise _Stopped

    async def _see_through(self, job: Job[T]) -> Answered[T]:
        sender = self._sender
        retrying = sender._retrying(lambda seconds: self._wait(lambda: sender._sleep(seconds)))
        tally = _Tally()
        try:
            return await retrying(self._attempt, job, tally)
        except Transient as failure:
            reason, crowded = failure.reason, failure.crowded
        story = (
            f"{sender._transport.base_url} failed {tally.attempts} times to answer one request; "
            f"last: {reason}. {_WHAT_NOW}"
        )
        raise RemoteError(story) if crowded else FailedError(story, reason)

    async def _attempt(self, job: Job[T], tally: _Tally) -> Answered[T]:
        sender = self._sender
        slot = await self._wait(sender._limit.acquire)
        outcome, start = Outcome.OTHER, sender._clock()
        try:
            await self._wait(lambda: sender._admitted(job.tokens))
            start = sender._clock()
            value = await self._exchange(job, tally)
            outcome = Outcome.ANSWERED
            sender._circuit.succeeded()
            return Answered(job, value, tally.lost, sender._clock() - start)
        except Transient as failure:
            outcome = Outcome.CROWDED if failure.crowded else Outcome.OTHER
            sender._learn(failure, sender._clock() - start)
            raise
        finally:
            sender._limit.release(slot, outcome, sender._clock() - start)

    async def _exchange(self, job: Job[T], tally: _Tally) -> T:
        """The value of one attempt; books what became of its queries."""
        body = job.body()
        if self._sent + job.queries > self._max_sent:
            raise _SpentUp
        self._sent += job.queries
        tally.attempts += 1
        lost = True
        try:
            value = job.read(await self._sender._transport.post(job.path, body))
            lost = False
            return value
        except (Refused, RemoteError) as error:
            lost = False
            if isinstance(error, WithheldError) and job.withheld is not None:
                return job.withheld(error.reason)
            self._sent -= job.queries
            raise
        except BrokenReply as error:
            words, _ = said_by(error.error)
            story = self._sender._transport.tidy(f"{error}: {words}" if words else str(error))
            raise Lost(f"the reply is not what was asked for: {story}") from None
        finally:
            if lost:
                self._lost += job.queries
                self._sender.lost += job.queries
                tally.lost += job.queries


def _instead(job: Job[T], error: RejectedError) -> Sequence[Job[T]]:
    """What is asked in place of a job that the server will not take; nothing if that is all."""
    if not isinstance(error, TooLongError | WithheldError):
        return ()
    if job.apart is not None:
        return job.apart()
    if isinstance(error, WithheldError) or job.shorter is None:
        return ()
    shorter = job.shorter()
    return () if shorter is None else (shorter,)
