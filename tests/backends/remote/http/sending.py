"""Jobs, a stand-in for a transport, and what comes of sending them in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np

from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.http.failures import BrokenReply, Lost
from blackbox_delta.backends.remote.http.sender import Sender

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
