"""A backend that answers pair by pair, and processes that it is killed in."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import SpentError, tell_lost
from blackbox_delta.types import (
    AnswerSlot,
    Prompt,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Words,
)

FILMS = [Prompt((Words(f"a film {'great ' * n}"), AnswerSlot())) for n in range(8)]
CHOICES = (" great", " terrible")
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where no disk is waited for
REQUEST = ScoreRequest(FILMS, CHOICES, top_k=3, purpose="search")
GOOD = Reply(
    0, 1, np.zeros(2, np.float32), np.arange(3), np.zeros(3, np.float32), Usage(1, 5, 5, 0.5)
)


def cost(prompt: Prompt) -> Usage:
    """What a pair costs: each field something else, each pair something else."""
    n = FILMS.index(prompt)
    tokens = int(FakeBackend().count_tokens(ScoreRequest([prompt], CHOICES))[0])
    return Usage(1, tokens, tokens - n % 2, (n + 1) / 64, n % 3, n % 4, n % 2, int(n == 5))


class Streaming(FakeBackend):
    """Answers pair by pair, as a server does; untuned prompts only.

    Args:
        alone: Prompts whose replies do not go to the sink.
        losing: Queries that are lost, of those that this backend ever sends.
        breaking: Queries with which a request ends, lost too, and the error that ends it.
        delay: Seconds between one reply and the next.
        on_reply: Called after every one that was handed over.
    """

    def __init__(
        self,
        *,
        alone: Collection[Prompt] = (),
        losing: Collection[int] = (),
        breaking: Mapping[int, BaseException] = MappingProxyType({}),
        delay: float = 0.0,
        on_reply: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.alone, self.losing, self.pause, self.on_reply = alone, losing, delay, on_reply
        self.breaking = breaking
        self.answered: list[Prompt] = []
        self.requests: list[ScoreRequest] = []
        self.sent = 0

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.requests.append(request)
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(self._stream(request, sink))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]  # type: ignore[no-any-return]

    def _stream(self, request: ScoreRequest, sink: Sink | None) -> Scores:
        before, parts, total = self.sent, [], Usage()
        for index, prompt in enumerate(request.prompts):
            usage = replace(cost(prompt), lost=self._send(request, before, cost(prompt).lost))
            part = super().score(replace(request, prompts=[prompt]))
            time.sleep(self.pause)
            self.answered.append(prompt)
            parts.append(part)
            total += usage
            if sink is not None and prompt not in self.alone:
                arrays = (part.label_logprobs, part.top_ids, part.top_logprobs)
                sink([Reply(0, index, *(array[0, 0] for array in arrays), usage)])  # type: ignore[arg-type]
                self.on_reply()
        names = ("label_logprobs", "top_ids", "top_logprobs")
        arrays = tuple(np.concatenate([getattr(p, name) for p in parts], axis=1) for name in names)
        return Scores(*arrays, total)  # type: ignore[arg-type]

    def _send(self, request: ScoreRequest, before: int, least: int) -> int:
        """Sends until a reply comes; how many were lost."""
        lost = -1
        while lost < least or self.sent - 1 in self.losing:
            if request.max_sent is not None and self.sent - before >= request.max_sent:
                raise SpentError("nothing may be sent any more", self.sent - before)
            self.sent += 1
            lost += 1
            if (error := self.breaking.get(self.sent - 1)) is not None:
                tell_lost(error, lost + 1)
                raise error
        return lost


STREAMING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from blackbox_delta.journal import Journal, JournaledBackend
from streaming import *
cache = None if len(sys.argv) < 4 else Journal.open(Path(sys.argv[3]), create=True, shared=True)
with Journal.open(Path(sys.argv[2]), create=True) as journal:
    print("ready", flush=True)
    inner = Streaming(delay=0.002, on_reply=lambda: print(len(journal), flush=True))
    for repeat in range(12):
        JournaledBackend(inner, journal, cache).score(replace(REQUEST, repeat=repeat))
"""


def start(*places: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STREAMING, str(Path(__file__).parent), *map(str, places)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str], delay: float) -> int:
    """Kills a started process; returns how many replies it said were written."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return max([0, *map(int, process.stdout.read().split("\n")[:-1])])
