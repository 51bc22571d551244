"""Every paid reply is written down before it is used; what was written is never paid again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from blackbox_delta._journal_file import Journal, Record
from blackbox_delta.errors import BackendError
from blackbox_delta.types import (
    Backend,
    Capabilities,
    EmbeddingTable,
    FloatArray,
    IntArray,
    ScoreRequest,
    Scores,
    Usage,
)

__all__ = ["Journal", "JournaledBackend", "Record", "check_reply"]


class JournaledBackend:
    """A backend that asks another one only for pairs that the journal does not hold.

    A pair is one candidate and one prompt. Queries and tokens are reported as asked; computed
    tokens and seconds as recorded when the pairs were paid. So a replay reports the same usage,
    to the last bit.

    Attributes:
        paid: Pairs that were sent to the inner backend.
        replayed: Pairs that were answered without it.
    """

    def __init__(self, inner: Backend, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal
        self.paid = 0
        self.replayed = 0

    @property
    def name(self) -> str:
        """The inner backend's."""
        return self._inner.name

    @property
    def identity(self) -> Mapping[str, str]:
        """The inner backend's."""
        return self._inner.identity

    @property
    def fingerprint(self) -> str:
        """The inner backend's."""
        return self._inner.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The inner backend's."""
        return self._inner.capabilities

    @property
    def embedding_table(self) -> EmbeddingTable | None:
        """The inner backend's."""
        return self._inner.embedding_table

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens of shape (n,), from the inner backend."""
        return self._inner.count_tokens(request)

    def close(self) -> None:
        """Closes the inner backend; the journal belongs to whoever opened it."""
        self._inner.close()

    def score(self, request: ScoreRequest) -> Scores:
        """Scores of shape (λ, n, c); whatever had to be paid is on the disk when it returns.

        Raises:
            BackendError: The inner backend failed, or its reply has the wrong shape or a number
                that is not finite. What it answered before is kept.
            JournalError: The journal cannot be read or written.
        """
        keys = _pair_keys(self._inner.identity, request)
        distinct = list(dict.fromkeys(key for row in keys for key in row))
        records = self._journal.get(distinct)
        paid_before = self.paid
        for part, part_keys in _missing(request, keys, records):
            paid = self._pay(part, part_keys)
            self._journal.put(paid)
            records.update(paid)
            self.paid += part.queries
        self.replayed += request.queries - (self.paid - paid_before)
        return _assemble(request, keys, records)

    def _pay(self, request: ScoreRequest, keys: list[list[bytes]]) -> dict[bytes, Record]:
        reply = self._inner.score(request)
        check_reply(request, reply)
        tokens = self._inner.count_tokens(request)
        pairs = request.queries
        computed, remainder = divmod(int(reply.usage.computed_tokens), pairs)
        records = {}
        for index, key in enumerate(key for row in keys for key in row):
            candidate, prompt = divmod(index, len(request.prompts))
            records[key] = Record(
                reply.label_logprobs[candidate, prompt],
                reply.top_ids[candidate, prompt],
                reply.top_logprobs[candidate, prompt],
                int(tokens[prompt]),
                computed + (index < remainder),
                float(reply.usage.seconds) / pairs,
            )
        return records


def _pair_keys(identity: Mapping[str, str], request: ScoreRequest) -> list[list[bytes]]:
    """λ lists of n keys: SHA-256 over all that a reply depends on."""
    common = [dict(identity), list(request.choices), request.top_k, request.repeat]
    head = hashlib.sha256(json.dumps(common, sort_keys=True).encode()).digest()
    prompts = [prompt.digest() for prompt in request.prompts]
    delta = request.delta
    untuned = [b"untuned"]
    deltas = untuned if delta is None else [delta.digest(index) for index in range(len(delta))]
    return [
        [hashlib.sha256(head + candidate + prompt).digest() for prompt in prompts]
        for candidate in deltas
    ]


def _missing(
    request: ScoreRequest, keys: list[list[bytes]], known: Mapping[bytes, Record]
) -> list[tuple[ScoreRequest, list[list[bytes]]]]:
    """Requests for exactly the pairs that are not known, each pair once, with their keys.

    Candidates that lack the same prompts go together, so that a request of which nothing is
    known stays as it is.
    """
    claimed = set(known)
    groups: dict[tuple[int, ...], list[int]] = {}
    for candidate, row in enumerate(keys):
        # Of a key that comes twice, the first place is asked for.
        first = {key: prompt for prompt, key in reversed(list(enumerate(row)))}
        prompts = tuple(sorted(place for key, place in first.items() if key not in claimed))
        claimed.update(row)
        if prompts:
            groups.setdefault(prompts, []).append(candidate)
    return [
        (
            _part(request, candidates, prompts),
            [[keys[candidate][prompt] for prompt in prompts] for candidate in candidates],
        )
        for prompts, candidates in groups.items()
    ]


def _part(request: ScoreRequest, candidates: list[int], prompts: tuple[int, ...]) -> ScoreRequest:
    if len(candidates) == request.candidates and len(prompts) == len(request.prompts):
        return request
    return ScoreRequest(
        [request.prompts[prompt] for prompt in prompts],
        request.choices,
        None if request.delta is None else request.delta.select(candidates),
        request.top_k,
        request.repeat,
    )


def check_reply(request: ScoreRequest, reply: Scores) -> None:
    """Refuses what must never become a score.

    Raises:
        BackendError: The reply has the wrong shape, a number that is not finite or a token id that
            is none.
    """
    pairs = (request.candidates, len(request.prompts))
    expected = {
        "label_logprobs": (*pairs, len(request.choices)),
        "top_ids": (*pairs, request.top_k),
        "top_logprobs": (*pairs, request.top_k),
    }
    for name, shape in expected.items():
        value: FloatArray | IntArray = getattr(reply, name)
        if value.shape != shape:
            raise BackendError(f"the reply's {name} have shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            raise BackendError(f"the reply's {name} hold a number that is not finite")
    if reply.top_ids.size and not 0 <= reply.top_ids.min() <= reply.top_ids.max() < 2**31:
        raise BackendError("the reply's top_ids hold a number that is no token id")


def _assemble(
    request: ScoreRequest, keys: list[list[bytes]], records: Mapping[bytes, Record]
) -> Scores:
    rows = [records[key] for row in keys for key in row]
    # A pair that comes twice was computed once. fsum: the same whatever the order.
    computed = [records[key] for key in dict.fromkeys(key for row in keys for key in row)]
    pairs = (request.candidates, len(request.prompts))

    def stacked(name: str, width: int, dtype: str) -> Any:
        values = np.array([getattr(row, name) for row in rows], dtype=dtype)
        return values.reshape(*pairs, width)

    return Scores(
        stacked("label_logprobs", len(request.choices), "float32"),
        stacked("top_ids", request.top_k, "int64"),
        stacked("top_logprobs", request.top_k, "float32"),
        Usage(
            request.queries,
            sum(row.tokens for row in rows),
            sum(row.computed_tokens for row in computed),
            math.fsum(row.seconds for row in computed),
        ),
    )
