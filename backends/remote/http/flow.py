"""How much is asked of a server at once: in flight, per minute, and when to give up."""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from aiolimiter import AsyncLimiter

_START = 8
# What twice as much in flight must gain in answers per second.
_WORTHWHILE = 1.05
# Rounds after which a measurement is repeated: before anything is concluded from it to the
# disadvantage of what is in flight, and otherwise.
_RECENT, _OLD = 8, 100


class Outcome(enum.Enum):
    """How an attempt ended, as far as the load on the server is concerned."""

    ANSWERED = enum.auto()
    CROWDED = enum.auto()  # refused or timed out: too much at once
    OTHER = enum.auto()


@dataclass(frozen=True)
class Slot:
    """One place among those in flight.

    Attributes:
        number: Slots are counted in the order they were taken.
        load: How many were taken at that moment, this one included.
    """

    number: int
    load: int


class AdaptiveLimit:
    """How many requests may be in flight: what the server turns into answers, and little more.

    With L in flight and latency T, a server answers L / T a second (Little's law). One that
    works through a batch in T = a + b L comes ever closer to 1 / b answers a second, and is at
    95 % of it where twice as much in flight gains 5 % (a / b is the half-performance length of
    Hockney & Jesshope 1981). One with K workers gains nothing beyond K. So the limit rises while
    every doubling gains at least 5 %, and falls by a quarter when it does not. The comparison is
    with half the limit, for which a round is run at half the limit where the last one was long
    ago, as BBR does to learn the latency of an idle path (Cardwell et al. 2016).

    As in TCP (Jacobson 1988) the limit grows by a share of itself a round at first, here half, then
    by one, and is halved by a refusal or timeout, once for all that were in flight when it was
    halved. A round is as many answers as the limit allows in flight.

    Args:
        most: The limit never exceeds it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(_START, most))
        self._starting = True
        self._in_flight = 0
        self._taken = 0
        self._cut_at = 0
        self._waiting: deque[anyio.Event] = deque()
        self._curve = _Curve()
        self._round = _Round(0)
        # What was in flight before a round at half of it.
        self._compared: int | None = None

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many are."""
        return self._in_flight

    async def acquire(self) -> Slot:
        """Waits for a free slot, first come first served."""
        if self._waiting or self._in_flight >= self.limit:
            await self._queue()
        else:
            self._in_flight += 1
        self._taken += 1
        return Slot(self._taken, self._in_flight)

    def release(self, slot: Slot, outcome: Outcome, seconds: float = 0.0) -> None:
        """Gives a slot back; ``seconds`` is how long an answer took from sending on."""
        if outcome is Outcome.ANSWERED and slot.number > self._round.after:
            self._round.add(max(slot.load, self._in_flight), seconds)
            if self._round.answers >= self.limit:
                self._conclude()
        elif outcome is Outcome.CROWDED and slot.number > self._cut_at:
            self._starting, self._compared, self._cut_at = False, None, self._taken
            self._move_to(self._limit / 2)
        self._in_flight -= 1
        self._grant()

    async def _queue(self) -> None:
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # granted, and not wanted any more
                self._in_flight -= 1
            else:
                self._waiting.remove(turn)
            self._grant()
            raise

    def _grant(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            self._in_flight += 1
            self._waiting.popleft().set()

    def _conclude(self) -> None:
        load = self._round.load
        self._curve.add(load, self._round.latency)
        compared, self._compared = self._compared, None
        if compared is not None:
            self._judge(compared, float(compared))
        elif load < 0.75 * self.limit:
            self._move_to(self._limit)  # not enough to send: nothing is learnt about the limit
        else:
            self._judge(load, self._limit)

    def _judge(self, load: int, limit: float) -> None:
        gain, age = self._curve.gain(load)
        if gain >= _WORTHWHILE and age <= _OLD:
            self._move_to(limit + (limit / 2 if self._starting else 1))
        elif age > _RECENT:
            self._compared = load
            self._move_to(load / 2)
        else:
            self._starting = False
            self._move_to(0.75 * limit)

    def _move_to(self, limit: float) -> None:
        self._limit = min(max(limit, 1.0), float(self._most))
        self._round = _Round(self._taken)


class _Curve:
    """Latency by load, as last measured."""

    def __init__(self) -> None:
        self._rounds = 0
        self._known: dict[int, tuple[float, int]] = {}

    def add(self, load: int, latency: float) -> None:
        """One round's mean latency in seconds."""
        self._rounds += 1
        self._known[load] = latency, self._rounds

    def gain(self, load: int) -> tuple[float, int]:
        """Throughput gained by each doubling of the load up to this one, and the age in rounds.

        Infinite, and of age 0, where no load of half or less was measured.
        """
        lower = [level for level in self._known if level <= load / 2]
        if not lower:
            return math.inf, 0
        half = max(lower)
        then, measured = self._known[half]
        now, _ = self._known[load]
        if now <= 0:
            return math.inf, 0
        ratio = (load * then) / (half * now)
        return ratio ** (1 / math.log2(load / half)), self._rounds - measured


class _Round:
    """Means over the answers to what was sent since the limit last moved."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.answers = 0
        self._load = 0
        self._seconds = 0.0

    def add(self, load: int, seconds: float) -> None:
        self.answers += 1
        self._load += load
        self._seconds += seconds

    @property
    def load(self) -> int:
        return round(self._load / self.answers)

    @property
    def latency(self) -> float:
        return self._seconds / self.answers


class Rates:
    """Requests and tokens per minute, spread evenly: no burst exceeds one second's worth.

    A request with more tokens than a minute allows counts as a full minute: it could never pass
    otherwise. Must be used from one event loop.

    Args:
        requests_per_minute: ``None`` for no limit.
        tokens_per_minute: ``None`` for no limit.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._tokens_per_minute = tokens_per_minute
        self._requests = None if requests_per_minute is None else _bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else _bucket(tokens_per_minute)
        self._turn = anyio.Lock()

    async def admit(self, tokens: int) -> None:
        """Waits until one more request with so many prompt tokens may be sent."""
        if self._tokens is None and self._requests is None:
            return
        async with self._turn:  # in the order they came, large ones too
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None and self._tokens_per_minute is not None:
                left = float(min(tokens, self._tokens_per_minute))
                while left > 0:
                    part = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(part)
                    left -= part


def _bucket(per_minute: int) -> AsyncLimiter:
    burst = max(1.0, per_minute / 60)
    # Slower by what a burst may add, so that no sixty seconds hold more than ``per_minute``.
    return AsyncLimiter(burst, 60 * burst / (per_minute + 1 - burst))


class Circuit:
    """Opens when nothing but failures comes for a while: the server is gone, not crowded.

    Args:
        clock: Seconds on a clock that never goes back.
        failures: How many in a row it takes.
        seconds: How long, from when the first of them was sent.
    """

    def __init__(
        self, clock: Callable[[], float], *, failures: int = 10, seconds: float = 60.0
    ) -> None:
        self._clock, self._failures, self._seconds = clock, failures, seconds
        self._since: float | None = None
        self._reasons: Counter[str] = Counter()

    def succeeded(self) -> None:
        """An answer came."""
        self._since = None
        self._reasons.clear()

    def failed(self, reason: str, seconds: float) -> str | None:
        """An attempt that took ``seconds`` failed.

        Returns:
            What happened, if that opens the circuit. It is closed again thereafter, so that a
            later call may try its luck.
        """
        now = self._clock()
        if self._since is None:
            self._since = now - seconds
        self._reasons[reason] += 1
        count = self._reasons.total()
        if count < self._failures or now - self._since < self._seconds:
            return None
        commonest = ", ".join(f"{times} x {what}" for what, times in self._reasons.most_common(3))
        self.succeeded()
        return f"failed {count} times in a row ({commonest})"
