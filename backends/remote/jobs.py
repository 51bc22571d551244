"""From a request to HTTP bodies, and from their replies to one answer a pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from blackbox_delta.backends.remote.asking import Asking
from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.inputs import Inputs
from blackbox_delta.backends.remote.wires.readings import Reading
from blackbox_delta.backends.remote.wires.wire import Answer, Wire, WireReply
from blackbox_delta.types import Prompt, ScoreRequest, Words

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class PartReply:
    """What one HTTP reply says.

    Attributes:
        pairs: The candidates and prompts it is about.
        readings: One a pair.
        tokens: Prompt tokens of each pair, as the server counts them where it does; zeros are taken
            for no count.
        computed: Those of them that it did not take from its cache, where it tells.
        output_tokens: Tokens that it wrote for each pair; the most that it may have written where
            it does not tell.
    """

    pairs: tuple[Pair, ...]
    readings: tuple[Reading, ...]
    tokens: tuple[int, ...]
    computed: tuple[int, ...]
    output_tokens: tuple[int, ...]


def jobs(
    request: ScoreRequest, wire: Wire, asking: Asking, inputs: Inputs, batch: int, written: int
) -> Iterator[Job[PartReply]]:
    """One job for every ``batch`` pairs.

    All candidates of a prompt follow one another, so that a server's prefix cache still holds
    what precedes the first slot.

    Args:
        request: What is asked.
        wire: Makes bodies and reads replies.
        asking: The question about the answer position.
        inputs: Makes what goes out of prompts.
        batch: The most pairs in one HTTP request.
        written: The most tokens that an answer may have.
    """
    pairs = [
        (candidate, prompt)
        for prompt in range(len(request.prompts))
        for candidate in range(request.candidates)
    ]
    counts = [inputs.count(request, prompt) for prompt in range(len(request.prompts))]
    for first in range(0, len(pairs), batch):
        part = tuple(pairs[first : first + batch])
        part_counts = [counts[prompt] for _, prompt in part]
        yield _job(request, wire, asking, inputs, part, part_counts, written)


def _job(
    request: ScoreRequest,
    wire: Wire,
    asking: Asking,
    inputs: Inputs,
    pairs: tuple[Pair, ...],
    counts: list[int],
    written: int,
) -> Job[PartReply]:
    def body() -> bytes:
        prompts = [inputs.input(request, candidate, prompt) for candidate, prompt in pairs]
        return json.dumps(wire.body(prompts, asking.ask, inputs.form)).encode()

    def read(payload: Any) -> PartReply:
        reply = wire.read(payload, asking.ask, len(pairs))
        readings = tuple(asking.rule(answer) for answer in reply.answers)
        # No prompt is empty: a server that counts none does not count.
        tokens = shares(counts, reply.prompt_tokens or sum(counts))
        computed = _computed(reply, tokens)
        return PartReply(pairs, readings, tokens, computed, _written(reply, len(pairs), written))

    def words() -> str:
        return _words(request.prompts[pairs[0][1]])

    return Job(wire.path, body, read, len(pairs), sum(counts), words if len(pairs) == 1 else None)


def _words(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt.segments if isinstance(segment, Words))


def _computed(reply: WireReply, tokens: tuple[int, ...]) -> tuple[int, ...]:
    cached = min(reply.cached_tokens or 0, sum(tokens))
    return shares(tokens, sum(tokens) - cached)


def _written(reply: WireReply, pairs: int, most: int) -> tuple[int, ...]:
    told = reply.output_tokens
    if told is None or (told == 0 and any(map(_says_something, reply.answers))):
        # Free is the one thing that they are not.
        return (most,) * pairs
    return shares([1] * pairs, told)


def _says_something(answer: Answer) -> bool:
    return bool(answer.text or answer.top or answer.labels)


def shares(weights: Sequence[int], total: int) -> tuple[int, ...]:
    """``total`` cut into whole parts in proportion to ``weights``, which add up to it."""
    left, whole = total, sum(weights)
    parts = []
    for weight in weights:
        parts.append(left * weight // whole if whole else 0)
        left, whole = left - parts[-1], whole - weight
    return tuple(parts)
