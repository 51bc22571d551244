"""From a request to HTTP bodies, and from their replies to one answer a pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from blackbox_delta.backends.remote.asking import Asking
from blackbox_delta.backends.remote.http.exchange import Job
from blackbox_delta.backends.remote.inputs import Inputs
from blackbox_delta.backends.remote.wires.readings import Reading, nothing
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
        withheld: For how many pairs a content filter stopped the text or the answer.
        reason: What the server said of that.
    """

    pairs: tuple[Pair, ...]
    readings: tuple[Reading, ...]
    tokens: tuple[int, ...]
    computed: tuple[int, ...]
    output_tokens: tuple[int, ...]
    withheld: int = 0
    reason: str = ""


def jobs(
    request: ScoreRequest,
    wire: Wire,
    asking: Asking,
    inputs: Inputs,
    shorten: Callable[[Prompt], Prompt | None],
    batch: int,
    written: int,
) -> Iterator[Job[PartReply]]:
    """One job for every ``batch`` pairs.

    All candidates of a prompt follow one another, so that a server's prefix cache still holds
    what precedes the first slot.

    Args:
        request: What is asked.
        wire: Makes bodies and reads replies.
        asking: The question about the answer position.
        inputs: Makes what goes out of prompts.
        shorten: Cuts the texts of a prompt that the server finds too long, where there are any.
        batch: The most pairs in one HTTP request.
        written: The most tokens that an answer may have.
    """
    counts = [inputs.count(request, prompt) for prompt in range(len(request.prompts))]
    maker = _Maker(request, wire, asking, inputs, shorten, counts, written)
    pairs = [
        (candidate, prompt)
        for prompt in range(len(request.prompts))
        for candidate in range(request.candidates)
    ]
    for first in range(0, len(pairs), batch):
        yield maker.job(tuple(pairs[first : first + batch]))


@dataclass(frozen=True)
class _Maker:
    """Makes jobs of one request's pairs; ``counts`` are its prompts' tokens."""

    request: ScoreRequest
    wire: Wire
    asking: Asking
    inputs: Inputs
    shorten: Callable[[Prompt], Prompt | None]
    counts: Sequence[int]
    written: int

    def job(self, pairs: tuple[Pair, ...]) -> Job[PartReply]:
        """The HTTP request that asks about these pairs."""
        tokens = sum(self._counts(pairs))
        body, read = partial(self._body, pairs), partial(self._read, pairs)
        if len(pairs) > 1:
            apart = partial(self._apart, pairs)
            return Job(self.wire.path, body, read, len(pairs), tokens, apart=apart)
        words = partial(words_of, self.request.prompts[pairs[0][1]])
        withheld, shorter = partial(self._withheld, pairs), partial(self._shorter, pairs[0])
        return Job(self.wire.path, body, read, 1, tokens, words, withheld, shorter=shorter)

    def _apart(self, pairs: tuple[Pair, ...]) -> list[Job[PartReply]]:
        return [self.job((pair,)) for pair in pairs]

    def _shorter(self, pair: Pair) -> Job[PartReply] | None:
        """The same about the beginning of its text; ``None`` where there is nothing to cut."""
        prompts, at = list(self.request.prompts), pair[1]
        shorter = self.shorten(prompts[at])
        if shorter is None:
            return None
        prompts[at] = shorter
        request, counts = replace(self.request, prompts=tuple(prompts)), list(self.counts)
        counts[at] = self.inputs.count(request, at)
        return replace(self, request=request, counts=counts).job((pair,))

    def _counts(self, pairs: tuple[Pair, ...]) -> list[int]:
        return [self.counts[prompt] for _, prompt in pairs]

    def _body(self, pairs: tuple[Pair, ...]) -> bytes:
        prompts = [
            self.inputs.input(self.request, candidate, prompt) for candidate, prompt in pairs
        ]
        return json.dumps(self.wire.body(prompts, self.asking.ask, self.inputs.form)).encode()

    def _read(self, pairs: tuple[Pair, ...], payload: Any) -> PartReply:
        reply = self.wire.read(payload, self.asking.ask, len(pairs))
        readings = tuple(map(self._reading, reply.answers))
        counts = self._counts(pairs)
        # No prompt is empty: a server that counts none does not count.
        tokens = shares(counts, reply.prompt_tokens or sum(counts))
        computed, written = _computed(reply, tokens), _written(reply, len(pairs), self.written)
        withheld = sum(answer.withheld for answer in reply.answers)
        said = "it gave no answer but the reason content_filter" if withheld else ""
        return PartReply(pairs, readings, tokens, computed, written, withheld, said)

    def _reading(self, answer: Answer) -> Reading:
        return self._nothing() if answer.withheld or answer.silent else self.asking.rule(answer)

    def _withheld(self, pairs: tuple[Pair, ...], reason: str) -> PartReply:
        """What a text leaves that was stopped: read in vain, perhaps, but billed as read."""
        tokens = tuple(self._counts(pairs))
        return PartReply(pairs, (self._nothing(),), tokens, (0,), (0,), 1, reason)

    def _nothing(self) -> Reading:
        return nothing(len(self.request.choices), self.request.top_k)


def words_of(prompt: Prompt) -> str:
    """The words of a prompt, without what is soft, for messages."""
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
