"""Requests taken apart into pairs of a candidate and a prompt, and put together again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from blackbox_delta.errors import BackendError
from blackbox_delta.journal.record import COSTS, Record
from blackbox_delta.types import FloatArray, IntArray, Reply, ScoreRequest, Scores, Usage

# What a pair that comes twice in a request costs only once. The rest is counted as asked.
_PAID_ONCE = frozenset({"computed_tokens", "seconds", "lost"})
_LARGEST = 2**63  # of an integer that SQLite keeps


# ----------------------------------------------------------------------------- keys


def pair_keys(identity: Mapping[str, str], request: ScoreRequest) -> list[list[bytes]]:
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


def distinct(keys: list[list[bytes]]) -> list[bytes]:
    """Every key once, in the order of the request."""
    return list(dict.fromkeys(key for row in keys for key in row))


def loss_key(pairs: Sequence[bytes], max_sent: int | None, number: int) -> bytes:
    """The key of what was sent in vain for a request about these pairs, within this allowance.

    Each time that the request ended without its replies is a loss of its own, numbered from 0.
    """
    which = json.dumps([max_sent, number]).encode()
    return hashlib.sha256(b"lost" + which + b"".join(pairs)).digest()


# ----------------------------------------------------------------------------- apart


def missing(
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
    return replace(
        request,
        prompts=[request.prompts[prompt] for prompt in prompts],
        delta=None if request.delta is None else request.delta.select(candidates),
    )


# ----------------------------------------------------------------------------- checks


def check_reply(request: ScoreRequest, reply: Scores) -> None:
    """Refuses what must never become a score.

    Raises:
        BackendError: The reply has the wrong shape, a number that is not finite or a token id that
            is none.
    """
    _check_numbers(request, reply, (request.candidates, len(request.prompts)))
    _check_usage(reply.usage)


def check_pair(request: ScoreRequest, reply: Reply) -> None:
    """The same for one pair.

    Raises:
        BackendError: As :func:`check_reply`, or the request has no such pair.
    """
    places = (reply.candidate, reply.prompt)
    if not (0 <= places[0] < request.candidates and 0 <= places[1] < len(request.prompts)):
        raise BackendError(
            f"a reply came for candidate {places[0]} and prompt {places[1]}, but "
            f"{request.candidates} candidates and {len(request.prompts)} prompts were asked for"
        )
    _check_numbers(request, reply, ())
    _check_usage(reply.usage)


def _check_numbers(request: ScoreRequest, reply: Scores | Reply, lead: tuple[int, ...]) -> None:
    expected = {
        "label_logprobs": (*lead, len(request.choices)),
        "top_ids": (*lead, request.top_k),
        "top_logprobs": (*lead, request.top_k),
    }
    for name, shape in expected.items():
        value: FloatArray | IntArray = getattr(reply, name)
        if value.shape != shape:
            raise BackendError(f"the reply's {name} have shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            raise BackendError(f"the reply's {name} hold a number that is not finite")
    if reply.top_ids.size and not 0 <= reply.top_ids.min() <= reply.top_ids.max() < 2**31:
        raise BackendError("the reply's top_ids hold a number that is no token id")


def _check_usage(usage: Usage) -> None:
    for name in COSTS:
        value = getattr(usage, name)
        if not 0 <= value < _LARGEST:
            raise BackendError(f"the reply's {name} are said to be {value}")


# ----------------------------------------------------------------------------- records


def record_of(reply: Reply, purpose: str) -> Record:
    """A reply that came by itself; a pair is one query, whatever its usage says."""
    costs: dict[str, Any] = {name: kind(getattr(reply.usage, name)) for name, kind in COSTS.items()}
    return Record(
        reply.label_logprobs,
        reply.top_ids,
        reply.top_logprobs,
        replace(Usage(**costs), queries=1),
        purpose,
    )


def records_of_rest(
    request: ScoreRequest,
    reply: Scores,
    tokens: IntArray,
    keys: list[list[bytes]],
    taken: Mapping[bytes, Record],
) -> dict[bytes, Record]:
    """The pairs that are in the scores alone, and their shares of the request's cost.

    Args:
        request: What was asked for.
        reply: What came back.
        tokens: (n,), what ``count_tokens`` says; the prompts' tokens are shared out accordingly.
        keys: λ lists of n keys, all different.
        taken: The pairs that came one by one; their costs are their own.
    """
    places = [
        (key, candidate, prompt)
        for candidate, row in enumerate(keys)
        for prompt, key in enumerate(row)
        if key not in taken
    ]
    counts = [int(tokens[prompt]) for _, _, prompt in places]
    usages = _shares(_left(reply.usage, taken.values()), counts)
    return {
        key: Record(
            reply.label_logprobs[candidate, prompt],
            reply.top_ids[candidate, prompt],
            reply.top_logprobs[candidate, prompt],
            usage,
            request.purpose,
        )
        for (key, candidate, prompt), usage in zip(places, usages, strict=True)
    }


def _left(total: Usage, taken: Iterable[Record]) -> dict[str, Any]:
    """What of each cost is not accounted for by the pairs that came one by one."""
    gone = sum((record.usage for record in taken), Usage())
    return {
        name: kind(max(0, getattr(total, name) - getattr(gone, name)))
        for name, kind in COSTS.items()
    }


def _shares(total: dict[str, Any], counts: list[int]) -> list[Usage]:
    """Usages that add up to the total: tokens as counted, everything else in equal parts."""
    equal = [1] * len(counts)
    shares: dict[str, Any] = {
        name: [amount / len(counts)] * len(counts)
        if isinstance(amount, float)
        else _split(amount, counts if name == "tokens" else equal)
        for name, amount in total.items()
        if counts
    }
    shares["queries"] = equal
    return [Usage(**{name: share[i] for name, share in shares.items()}) for i in range(len(counts))]


def _split(total: int, weights: list[int]) -> list[int]:
    """Whole numbers that add up to the total, in proportion to weights that are not all 0."""
    ends = [total * end // sum(weights) for end in accumulate(weights, initial=0)]
    return [end - start for start, end in pairwise(ends)]


# ----------------------------------------------------------------------------- together


def assemble(
    request: ScoreRequest,
    keys: list[list[bytes]],
    records: Mapping[bytes, Record],
    losses: Sequence[Record],
) -> Scores:
    """Scores of shape (λ, n, c), the same whoever answered the pairs, and when.

    Args:
        request: What was asked for.
        keys: λ lists of n keys.
        records: One for each key.
        losses: What was sent in vain before; it belongs to what the request cost.
    """
    rows = [records[key] for row in keys for key in row]
    pairs = (request.candidates, len(request.prompts))

    def stacked(name: str, width: int, dtype: str) -> Any:
        values = np.array([getattr(row, name) for row in rows], dtype=dtype)
        return values.reshape(*pairs, width)

    return Scores(
        stacked("label_logprobs", len(request.choices), "float32"),
        stacked("top_ids", request.top_k, "int64"),
        stacked("top_logprobs", request.top_k, "float32"),
        _total([*rows, *losses], [*(records[key] for key in distinct(keys)), *losses]),
    )


def _total(asked: list[Record], paid: list[Record]) -> Usage:
    costs: dict[str, Any] = {}
    for name, kind in COSTS.items():
        values = [getattr(r.usage, name) for r in (paid if name in _PAID_ONCE else asked)]
        # fsum: the same whatever the order.
        costs[name] = math.fsum(values) if kind is float else sum(values)
    return Usage(**costs)
