"""Gathers answers that come in any order, and hands each on as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blackbox_delta.backends.remote.http.exchange import Answered
from blackbox_delta.backends.remote.jobs import PartReply
from blackbox_delta.backends.remote.withheld import Withheld
from blackbox_delta.types import Reply, ScoreRequest, Scores, Sink, Usage


class Collector:
    """The scores of one request while they come in.

    Args:
        request: What was asked.
        sink: Takes replies as they come.
        clock: Seconds on a clock that never goes back.
        withheld: Counts what a content filter stops.
    """

    def __init__(
        self,
        request: ScoreRequest,
        sink: Sink | None,
        clock: Callable[[], float],
        withheld: Withheld,
    ) -> None:
        self._prompts, self._withheld = request.prompts, withheld
        pairs = (request.candidates, len(request.prompts))
        self._labels = np.full((*pairs, len(request.choices)), np.nan, np.float32)
        self._top_ids = np.zeros((*pairs, request.top_k), np.int64)
        self._top = np.zeros((*pairs, request.top_k), np.float32)
        self._usage = Usage()
        self._sink, self._clock, self._last = sink, clock, clock()

    def take(self, answered: Answered[PartReply]) -> None:
        """Takes in one HTTP reply; raises what :meth:`Withheld.take` does.

        Its pairs share the time since the reply before it, so that all times add up to the
        time that the request took, however many replies were under way at once.
        """
        part, now = answered.value, self._clock()
        self._withheld.take(part, self._prompts)
        seconds = (now - self._last) / len(part.pairs)
        self._last = now
        lost = answered.lost // len(part.pairs)
        replies = [
            Reply(
                candidate,
                prompt,
                reading.label_logprobs,
                reading.top_ids,
                reading.top_logprobs,
                # A lost query may be billed like the one that was answered.
                Usage(
                    queries=1,
                    tokens=part.tokens[at] * (1 + lost),
                    computed_tokens=part.computed[at],
                    seconds=seconds,
                    output_tokens=part.output_tokens[at] * (1 + lost),
                    lost=lost,
                    bounded=reading.bounded,
                    unparsed=reading.unparsed,
                ),
            )
            for at, ((candidate, prompt), reading) in enumerate(
                zip(part.pairs, part.readings, strict=True)
            )
        ]
        if self._sink is not None:
            self._sink(replies)
        for reply in replies:
            self._keep(reply)

    def scores(self) -> Scores:
        """Everything, once all of it is there."""
        return Scores(self._labels, self._top_ids, self._top, self._usage)

    def _keep(self, reply: Reply) -> None:
        at = (reply.candidate, reply.prompt)
        self._labels[at] = reply.label_logprobs
        self._top_ids[at] = reply.top_ids
        self._top[at] = reply.top_logprobs
        self._usage += reply.usage
