"""The contract test for backends; use it from :mod:`blackbox_delta.testing`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from inspect import get_annotations

import numpy as np

from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import (
    AnswerSlot,
    Backend,
    DeltaBatch,
    FloatArray,
    Prompt,
    Reply,
    ScoreRequest,
    Scores,
    SoftSlot,
    Words,
)

_TEXTS = ("a wonderful film", "the plot is dull and far too long", "fine", "I would not go again")
_CANDIDATES = 3
_SOFT_TOKENS = 2
#: How far ``count_tokens`` may be off where it is an estimate.
_ESTIMATE = 0.3
# A password in an address, a header's value, a provider's prefix, or a long word of mixed kinds as
# keys are (digests and names are not: they lack capitals or digits).
_SECRET = re.compile(
    r"://[^/@\s]*:[^/@\s]*@|(?i:\bbearer\s)|\b(?:sk-|gsk_|xai-|hf_|AIza)[\w-]{16}"
    r"|(?=[A-Za-z0-9]*[a-z])(?=[A-Za-z0-9]*[A-Z])(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{24}"
)


def require(condition: object, message: str) -> None:
    """Raises ``AssertionError`` unless the condition holds, also where Python drops asserts."""
    if not condition:
        raise AssertionError(message)


def require_members(given: object, protocol: type) -> None:
    """Raises ``AssertionError`` unless all that the protocol names is there."""
    named = dict.fromkeys([*get_annotations(protocol), *vars(protocol)])
    lacks = [name for name in named if not name.startswith("_") and not hasattr(given, name)]
    whose, wanted = type(given).__name__, protocol.__name__
    require(not lacks, f"{whose} lacks {', '.join(lacks)}, which every {wanted} has")


def as_json(name: str, value: object) -> str:
    """The text of a dict; raises ``AssertionError`` unless it comes back from that as it is."""
    require(isinstance(value, dict), f"{name} must be a dict, not {type(value).__name__}")
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name} must be ready for JSON: {error}") from error
    require(json.loads(text) == value, f"{name} must come back from JSON as it is")
    return text


def check_backend(
    backend: Backend,
    prompts: Sequence[Prompt] | None = None,
    choices: Sequence[str] = (" great", " terrible"),
    *,
    tolerance: float = 1e-4,
) -> None:
    """Checks a backend against :class:`blackbox_delta.types.Backend`.

    Spends 4 queries a prompt; 16 where soft prompts are accepted, and one more where prompts may
    be assigned candidates.

    Args:
        backend: The backend; it stays open.
        prompts: At least two different ones; plain review sentences by default.
        choices: At least two label words.
        tolerance: How far log-probabilities may differ between one batch and another.

    Raises:
        AssertionError: It breaks a promise.
    """
    require_members(backend, Backend)
    soft = "soft-prompt" in backend.capabilities.deltas
    inside = backend.capabilities.deltas - {"soft-prompt"}
    known = not inside or backend.geometry is not None
    require(known, f"geometry must say what {', '.join(sorted(inside))} can act on")
    prompts = tuple(_prompts(soft) if prompts is None else prompts)
    _check_description(backend)
    _check_refusals(backend, prompts, choices)
    top_k = min(5, backend.capabilities.max_top_k)
    requests = [ScoreRequest(prompts, choices, top_k=top_k)]
    if soft:
        requests.append(ScoreRequest(prompts, choices, _soft_prompts(backend, prompts), top_k))
    for request in requests:
        replies: list[Reply] = []
        scores = backend.score(request, replies.extend)
        _check_scores(request, scores)
        _check_replies(request, scores, replies)
        _check_usage(backend, request, scores)
        _check_top(backend, request, scores, tolerance)
        _check_determinism(backend, request, scores)
        _check_batches(backend, request, scores, tolerance)
        if request.delta is not None and backend.capabilities.assigns:
            _check_assigned(backend, request, scores, tolerance)


def _prompts(soft: bool) -> list[Prompt]:
    slot = (SoftSlot("soft"),) if soft else ()
    return [
        Prompt((Words(text, truncatable=True), *slot, Words(" It was"), AnswerSlot()))
        for text in _TEXTS
    ]


def _soft_prompts(backend: Backend, prompts: Sequence[Prompt]) -> DeltaBatch:
    """λ = 3 candidates near rows of the embedding table, in every slot."""
    table = backend.embedding_table
    if table is None:
        raise AssertionError("a backend that takes soft prompts must show its embedding table")
    rng = np.random.default_rng(0)
    names = {part.name for p in prompts for part in p.segments if isinstance(part, SoftSlot)}
    shape = (_CANDIDATES, _SOFT_TOKENS, table.hidden_size)
    tensors: dict[str, FloatArray] = {}
    for name in sorted(names):
        ids = rng.integers(table.vocabulary_size, size=shape[:2])
        rows = table.rows(ids.ravel().tolist()).reshape(shape)
        noise = table.std * rng.standard_normal(shape)
        tensors[name] = (rows + noise).astype(np.float32)
    require(tensors, "the prompts hold no soft slot, though the backend takes soft prompts")
    return DeltaBatch("soft-prompt", tensors)


def _check_description(backend: Backend) -> None:
    for attribute in ("name", "fingerprint"):
        value = getattr(backend, attribute)
        require(isinstance(value, str) and value, f"{attribute} must be a text, not {value!r}")
    identity = dict(backend.identity)
    texts = all(isinstance(value, str) for item in identity.items() for value in item)
    require(identity and texts, f"identity must map texts to texts, not {identity!r}")
    json.dumps(identity)
    _check_address(backend)
    for limit in ("max_top_k", "output_tokens"):
        require(getattr(backend.capabilities, limit) >= 0, f"{limit} must not be negative")


def _check_address(backend: Backend) -> None:
    text = as_json("address", backend.address)
    # The message does not show what may be a key.
    for name, value in {"address": text, "identity": json.dumps(dict(backend.identity))}.items():
        found = _SECRET.search(value)
        require(
            not found,
            f"{name} holds what looks like a secret; it is kept in files, so leave it out",
        )


def _check_refusals(backend: Backend, prompts: Sequence[Prompt], choices: Sequence[str]) -> None:
    too_many = backend.capabilities.max_top_k + 1
    unknown = DeltaBatch("no-such-kind", {"x": np.zeros((1, 1), np.float32)})
    refused = {
        "a delta of an unknown kind": ScoreRequest(prompts, choices, unknown),
        f"top_k = {too_many}, above max_top_k": ScoreRequest(prompts, choices, top_k=too_many),
    }
    if not backend.capabilities.assigns:
        own = tuple(0 for _ in prompts)
        refused["an assignment"] = ScoreRequest(prompts, choices, assignment=own)
    for what, request in refused.items():
        try:
            backend.score(request)
        except UnsupportedError:
            continue
        raise AssertionError(f"score must raise UnsupportedError for {what}")


def _check_scores(request: ScoreRequest, scores: Scores) -> None:
    pairs = (request.candidates, len(request.prompts))
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "label_logprobs": ((*pairs, len(request.choices)), np.float32),
        "top_ids": ((*pairs, request.top_k), np.int64),
        "top_logprobs": ((*pairs, request.top_k), np.float32),
    }
    for name, (shape, dtype) in expected.items():
        value = getattr(scores, name)
        require(value.shape == shape, f"{name} must have shape {shape}, not {value.shape}")
        require(value.dtype == dtype, f"{name} must be {dtype.__name__}, not {value.dtype}")
        require(np.isfinite(value).all(), f"{name} must be finite")
        if dtype is np.float32:
            # The room is for the rounding of a probability of one.
            require(
                (value <= 1e-5).all(), f"{name} must not be above 0: they are log-probabilities"
            )


def _check_replies(request: ScoreRequest, scores: Scores, replies: Sequence[Reply]) -> None:
    """Whatever was handed over early is what the scores say, each pair at most once."""
    pairs = [(reply.candidate, reply.prompt) for reply in replies]
    inside = all(
        0 <= candidate < request.candidates and 0 <= prompt < len(request.prompts)
        for candidate, prompt in pairs
    )
    require(inside, "a reply in the sink is of a pair that was not asked for")
    require(len(set(pairs)) == len(pairs), "a pair must come to the sink once at most")
    for reply in replies:
        for name in ("label_logprobs", "top_ids", "top_logprobs"):
            same = np.array_equal(
                getattr(reply, name), getattr(scores, name)[reply.candidate, reply.prompt]
            )
            require(same, f"a reply's {name} in the sink must be those in the scores")
        require(reply.usage.queries == 1, "a reply in the sink must report one query")


def _check_usage(backend: Backend, request: ScoreRequest, scores: Scores) -> None:
    tokens, usage = backend.count_tokens(request), scores.usage
    shape = (len(request.prompts),)
    require(tokens.shape == shape, f"count_tokens must have shape {shape}, not {tokens.shape}")
    require(np.issubdtype(tokens.dtype, np.integer), "count_tokens must be whole numbers")
    require((tokens > 0).all(), "count_tokens must be positive")
    again = backend.count_tokens(request)
    require(np.array_equal(tokens, again), "count_tokens must be the same for the same request")
    total, able = int(tokens.sum()) * request.candidates, backend.capabilities
    allowed = 0 if able.exact_tokens else _ESTIMATE * total
    close = usage.lost or abs(usage.tokens - total) <= allowed
    how = "" if able.exact_tokens else f" to {_ESTIMATE:.0%}"
    require(close, f"usage.tokens must be λ·Σ count_tokens{how}, {usage.tokens}≠{total}")
    require(usage.queries == request.queries, f"usage.queries must be λ·n = {request.queries}")
    for name in usage.__slots__:
        require(getattr(usage, name) >= 0, f"usage.{name} must not be negative")
    sent = usage.queries + usage.lost
    most = {
        "output_tokens": sent * able.output_tokens,
        "bounded": usage.queries * len(request.choices),
        "unparsed": usage.queries,
    }
    for name, limit in most.items():
        require(getattr(usage, name) <= limit, f"usage.{name} must not be more than {limit}")


def _check_top(backend: Backend, request: ScoreRequest, scores: Scores, tolerance: float) -> None:
    top = scores.top_logprobs
    require((np.diff(top, axis=-1) <= 0).all(), "top_logprobs must fall: likeliest first")
    distinct = (np.diff(np.sort(scores.top_ids, axis=-1), axis=-1) != 0).all()
    require(distinct, "top_ids must not name a token twice")
    mass = np.exp(top.astype(np.float64)).sum(axis=-1)
    require((mass <= 1 + tolerance).all(), "the top tokens' probabilities must not exceed 1")
    if backend.embedding_table is None:
        return
    for column, choice in enumerate(request.choices):
        ids = backend.embedding_table.tokenize(choice)
        if len(ids) == 1:
            candidate, prompt, rank = np.nonzero(scores.top_ids == ids[0])
            among_top = top[candidate, prompt, rank]
            label = scores.label_logprobs[candidate, prompt, column]
            message = f"{choice!r} must have the same log-probability as a label and as a top token"
            np.testing.assert_allclose(among_top, label, rtol=0, atol=tolerance, err_msg=message)


def _check_assigned(
    backend: Backend, request: ScoreRequest, scores: Scores, tolerance: float
) -> None:
    """Each prompt under a candidate of its own must answer what it answers among all pairs."""
    own = [number % request.candidates for number in range(len(request.prompts))][::-1]
    assigned = replace(request, assignment=tuple(own))
    got = backend.score(assigned)
    _check_scores(assigned, got)
    _check_usage(backend, assigned, got)
    for name in ("label_logprobs", "top_logprobs"):
        expected = getattr(scores, name)[own, np.arange(len(own))][None]
        message = f"{name} must be those of the pairs that were assigned"
        np.testing.assert_allclose(
            getattr(got, name), expected, rtol=0, atol=tolerance, err_msg=message
        )


def _check_determinism(backend: Backend, request: ScoreRequest, scores: Scores) -> None:
    again = backend.score(request)
    same = all(
        np.array_equal(getattr(again, name), getattr(scores, name))
        for name in ("label_logprobs", "top_ids", "top_logprobs")
    )
    require(same, "the same request must be answered the same, to the last bit")


def _check_batches(
    backend: Backend, request: ScoreRequest, scores: Scores, tolerance: float
) -> None:
    """One at a time, and all of them backwards, must answer what the batch answered."""
    n, delta = len(request.prompts), request.delta

    def ask(candidates: list[int], rows: list[int]) -> Scores:
        prompts = [request.prompts[row] for row in rows]
        part = None if delta is None else delta.select(candidates)
        return backend.score(ScoreRequest(prompts, request.choices, part, request.top_k))

    def compare(got: Scores, candidates: list[int], rows: list[int], when: str) -> None:
        for name in ("label_logprobs", "top_logprobs"):
            expected = getattr(scores, name)[np.ix_(candidates, rows)]
            message = f"{name} must not change {when}"
            np.testing.assert_allclose(
                getattr(got, name), expected, rtol=0, atol=tolerance, err_msg=message
            )

    candidates, rows = list(range(request.candidates)), list(range(n))
    compare(ask(candidates[::-1], rows[::-1]), candidates[::-1], rows[::-1], "with the order")
    for candidate in candidates:
        for row in rows:
            compare(ask([candidate], [row]), [candidate], [row], "when a pair is scored alone")
