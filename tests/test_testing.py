"""The contract tests must catch whoever breaks a contract; keeping it is tested elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.testing import check_backend, check_delta, check_optimizer
from blackbox_delta.types import (
    Capabilities,
    DeltaBatch,
    FloatArray,
    IntArray,
    Json,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    Vector,
)

LACKING: list[tuple[Callable[[Any], None], Any, str]] = [
    (check_backend, None, "NoneType lacks name, .*score, .*which every Backend has"),
    (check_delta, FakeBackend(), "FakeBackend lacks kind, size, .*unpack.*, which every Delta has"),
    (check_optimizer, lambda d, seed: (d, seed), "tuple lacks name, .*ask, tell, .*Optimizer has"),
]


@pytest.mark.parametrize(("check", "given", "message"), LACKING, ids=["None", "fake", "factory"])
def test_what_is_something_else_is_told_what_it_lacks(
    check: Callable[[Any], None], given: Any, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check(given)


class Tampered(FakeBackend):
    """A fake whose replies are changed on the way out."""

    def __init__(self, change: Callable[[Scores], Scores]) -> None:
        super().__init__()
        self.change = change

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        return self.change(super().score(request, sink))


def _noisy(scores: Scores) -> Scores:
    noise = np.random.default_rng().normal(0, 1e-3, scores.label_logprobs.shape)
    return replace(scores, label_logprobs=scores.label_logprobs - np.abs(noise).astype("f4"))


def _depends_on_the_batch(scores: Scores) -> Scores:
    size = np.float32(0.01 * len(scores.label_logprobs[0]))
    return replace(scores, label_logprobs=scores.label_logprobs - size)


def _depends_on_the_place(scores: Scores) -> Scores:
    places = np.arange(scores.label_logprobs.shape[1], dtype=np.float32)
    return replace(scores, label_logprobs=scores.label_logprobs - 0.01 * places[:, None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, label_logprobs=s.label_logprobs[0]), "must have shape"),
        (lambda s: replace(s, label_logprobs=s.label_logprobs.astype(float)), "must be float32"),
        (lambda s: replace(s, top_ids=s.top_ids.astype(np.int32)), "must be int64"),
        (lambda s: replace(s, label_logprobs=np.full_like(s.label_logprobs, np.nan)), "finite"),
        (lambda s: replace(s, label_logprobs=-s.label_logprobs), "not be above 0"),
        (lambda s: replace(s, top_logprobs=s.top_logprobs[..., ::-1]), "likeliest first"),
        (lambda s: replace(s, top_ids=np.zeros_like(s.top_ids)), "token twice"),
        (lambda s: replace(s, top_logprobs=np.zeros_like(s.top_logprobs)), "must not exceed 1"),
        (lambda s: replace(s, usage=Usage(s.usage.queries, 1)), "usage.tokens"),
        (lambda s: replace(s, usage=Usage(0, s.usage.tokens)), "usage.queries"),
        (lambda s: replace(s, usage=replace(s.usage, lost=-1)), "usage.lost must not be neg"),
        (lambda s: replace(s, usage=replace(s.usage, output_tokens=1)), "output_tokens must not"),
        (lambda s: replace(s, usage=replace(s.usage, bounded=9)), "usage.bounded must not be more"),
        (lambda s: replace(s, usage=replace(s.usage, unparsed=5)), "unparsed must not be more"),
        (_noisy, "to the last bit|same log-probability"),
        (_depends_on_the_batch, "scored alone|same log-probability"),
        (_depends_on_the_place, "with the order|same log-probability"),
    ],
)
def test_a_broken_reply_is_caught(change: Callable[[Scores], Scores], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_backend(Tampered(change))


class Streaming(FakeBackend):
    """Hands over its replies one by one, changed on the way.

    Args:
        change: What comes to the sink of what should.
        last: How many of the last pairs stay in the scores alone.
    """

    def __init__(
        self, change: Callable[[list[Reply]], list[Reply]] = lambda r: r, last: int = 0
    ) -> None:
        super().__init__()
        self.change, self.last = change, last

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores = super().score(request)
        pairs = list(np.ndindex(request.candidates, len(request.prompts)))
        replies = [
            Reply(
                i,
                j,
                scores.label_logprobs[i, j],
                scores.top_ids[i, j],
                scores.top_logprobs[i, j],
                Usage(queries=1),
            )
            for i, j in pairs[: len(pairs) - self.last]
        ]
        for reply in self.change(replies) if sink else []:
            sink([reply])  # type: ignore[misc]
        return scores


@pytest.mark.parametrize("last", [0, 3])
def test_a_backend_may_hand_over_replies_early(last: int) -> None:
    check_backend(Streaming(last=last))
    check_backend(Streaming(lambda replies: replies[::-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [*r, r[0]], "once at most"),
        (lambda r: [replace(r[0], prompt=99)], "not asked for"),
        (lambda r: [replace(r[0], candidate=-1)], "not asked for"),
        (lambda r: [replace(r[0], label_logprobs=r[1].label_logprobs)], "label_logprobs in the"),
        (lambda r: [replace(r[0], top_ids=r[0].top_ids[:2])], "top_ids in the sink"),
        (lambda r: [replace(r[0], top_logprobs=r[0].top_logprobs - 1)], "top_logprobs in the"),
        (lambda r: [replace(r[0], usage=Usage(queries=4))], "report one query"),
    ],
)
def test_a_sink_that_is_told_something_else_is_caught(
    change: Callable[[list[Reply]], list[Reply]], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_backend(Streaming(change))


class Estimating(FakeBackend):
    """Counts tokens roughly."""

    def __init__(self, factor: float, *, exact: bool = False) -> None:
        super().__init__()
        self.factor, self.exact = factor, exact

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, exact_tokens=self.exact)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        return np.round(self.factor * super().count_tokens(request)).astype(np.int64)

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores = super().score(request, sink)
        tokens = int(super().count_tokens(request).sum()) * request.candidates
        return replace(scores, usage=replace(scores.usage, tokens=tokens))


def test_an_estimate_may_be_off_but_not_far() -> None:
    check_backend(Estimating(1.2))
    check_backend(Estimating(0.85))
    with pytest.raises(AssertionError, match="usage.tokens must be λ·Σ count_tokens to 30%"):
        check_backend(Estimating(1.6))
    with pytest.raises(AssertionError, match="usage.tokens must be λ·Σ count_tokens, "):
        check_backend(Estimating(1.2, exact=True))


class Fickle(FakeBackend):
    def count_tokens(self, request: ScoreRequest) -> IntArray:
        self.counted = not getattr(self, "counted", False)
        return super().count_tokens(request) + self.counted


def test_token_counts_that_change_are_caught() -> None:
    with pytest.raises(AssertionError, match="count_tokens must be the same|usage.tokens"):
        check_backend(Fickle())


class At(FakeBackend):
    """Stands at an address."""

    def __init__(self, address: Any) -> None:
        super().__init__()
        self._address = address

    @property
    def address(self) -> Json:
        return self._address  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"base_url": "https://api.example.com:8443/v1?version=2024-10-21", "tier": "chat"},
        {"key_from": "OPENAI_API_KEY", "key_file": "/home/me/.config/key"},
        {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "weights": "3f" * 32, "k": 20},
    ],
)
def test_an_address_may_say_where_a_key_is(address: Any) -> None:
    check_backend(At(address))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ([], "must be a dict"),
        (None, "must be a dict"),
        ({"a": {1, 2}}, "ready for JSON"),
        ({"a": float("nan")}, "ready for JSON"),
        ({1: "a"}, "come back"),
        ({"a": (1, 2)}, "come back"),
        ({"key": "sk-" + "a1" * 12}, "looks like a secret"),
        ({"key": "hf_" + "abcdefgh" * 4}, "looks like a secret"),
        ({"headers": {"Authorization": "Bearer abc"}}, "looks like a secret"),
        ({"base_url": "https://me:word@host/v1"}, "looks like a secret"),
        ({"token": "aB3dE5gH7jK9mN1pQ3sT5vW7"}, "looks like a secret"),
    ],
)
def test_an_address_that_cannot_be_kept_is_caught(address: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_backend(At(address))
    for secret in ("sk-", "hf_", "abc", "word", "aB3"):
        assert secret not in str(caught.value)


def test_a_backend_that_takes_what_it_cannot_apply_is_caught() -> None:
    class Careless(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            if request.delta is not None and request.delta.kind not in self.capabilities.deltas:
                request = replace(request, delta=None)
            return super().score(request, sink)

    class Greedy(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            return super().score(replace(request, top_k=min(request.top_k, 100)), sink)

    with pytest.raises(AssertionError, match="UnsupportedError for a delta of an unknown kind"):
        check_backend(Careless())
    with pytest.raises(AssertionError, match="UnsupportedError for top_k = 101"):
        check_backend(Greedy())
    with pytest.raises(AssertionError, match="_Bare lacks .*, which every Backend has"):
        check_backend(_Bare())  # type: ignore[arg-type]


def test_a_backend_that_gives_prompts_other_candidates_than_their_own_is_caught() -> None:
    class Shifted(FakeBackend):
        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            if request.assignment is not None and request.delta is not None:
                own = tuple((each + 1) % len(request.delta) for each in request.assignment)
                request = replace(request, assignment=own)
            return super().score(request, sink)

    class Unaware(FakeBackend):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, assigns=False)

        def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
            return super().score(replace(request, assignment=None), sink)

    with pytest.raises(AssertionError, match="must be those of the pairs that were assigned"):
        check_backend(Shifted())
    with pytest.raises(AssertionError, match="UnsupportedError for an assignment"):
        check_backend(Unaware())


class _Bare:
    capabilities = FakeBackend(accepts=()).capabilities

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        raise UnsupportedError("no")


class Hill:
    """A (1, λ) evolution strategy: as small as an optimizer that keeps the contract can be."""

    name = "hill"
    population = 8

    def __init__(self, dimension: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.mean: Vector = np.zeros(dimension)

    def ask(self, count: int) -> Vector:
        return self.mean + 0.2 * self.rng.standard_normal((count, len(self.mean)))

    def tell(self, z: Vector, losses: Vector) -> None:
        self.mean = z[np.argmin(losses)].copy()


class GlobalRandomness(Hill):
    def ask(self, count: int) -> Vector:
        return super().ask(count) + 0.01 * random.random()


class HiddenRandomness(Hill):
    def __init__(self, dimension: int, seed: int) -> None:
        super().__init__(dimension, seed)
        self.rng = np.random.default_rng()


class WrongCount(Hill):
    def ask(self, count: int) -> Vector:
        return super().ask(self.population)


class Maximiser(Hill):
    def tell(self, z: Vector, losses: Vector) -> None:
        super().tell(z, -losses)


class Meddler(Hill):
    def tell(self, z: Vector, losses: Vector) -> None:
        super().tell(z, losses)
        z += 1


class Lost(Hill):
    def tell(self, z: Vector, losses: Vector) -> None:
        self.mean = np.full_like(self.mean, np.nan)


def test_a_sound_optimizer_passes() -> None:
    check_optimizer(Hill)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (GlobalRandomness, "global generators"),
        (HiddenRandomness, "equal seeds"),
        (WrongCount, r"ask\(1\) must return shape"),
        (Maximiser, "must bring mean closer"),
        (Meddler, "must not change the candidates"),
        (Lost, "mean must be finite"),
    ],
)
def test_a_broken_optimizer_is_caught(optimizer: type[Hill], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_optimizer(optimizer)


class Flat:
    """Two slots, one after the other in θ."""

    kind = "soft-prompt"
    size = 10
    groups: tuple[int, ...] = (4, 6)
    shapes: tuple[tuple[int, ...], ...] = ((2, 2), (3, 2))
    origin: FloatArray = np.linspace(0, 1, 10, dtype=np.float32)
    scale = 0.1

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        one, two = theta[:, :4].reshape(-1, 2, 2), theta[:, 4:].reshape(-1, 3, 2)
        return DeltaBatch(self.kind, {"one": one, "two": two})

    def config(self) -> Json:
        return {"slots": [2, 3]}


class Curved(Flat):
    def unpack(self, theta: FloatArray) -> DeltaBatch:
        return super().unpack(theta**2)


class Centred(Flat):
    def unpack(self, theta: FloatArray) -> DeltaBatch:
        return super().unpack(theta - theta.mean(axis=0))


class Sized(Flat):
    def config(self) -> Json:
        return {"size": np.int64(self.size)}


class Single(Flat):
    def unpack(self, theta: FloatArray) -> DeltaBatch:
        return super().unpack(theta[:1])


class Short(Flat):
    origin = np.zeros(9, dtype=np.float32)


class Torn(Flat):
    groups = (4, 5)


class Shapeless(Flat):
    shapes = ((2, 2), (3,))


class Groupless(Flat):
    groups = ()


class Scaleless(Flat):
    scale = 0.0


class Renamed(Flat):
    def unpack(self, theta: FloatArray) -> DeltaBatch:
        return replace(super().unpack(theta), kind="lora")


def test_a_sound_delta_passes() -> None:
    check_delta(Flat())


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (Curved, "must be linear"),
        (Centred, "must not depend on the others"),
        (Sized, "config must be ready for JSON"),
        (Single, "leading λ"),
        (Short, "origin must have shape"),
        (Torn, "groups must add up to D = 10, not 9"),
        (Shapeless, "shapes must hold D = 10 numbers, not 7"),
        (Groupless, "every group must be positive"),
        (Scaleless, "scale must be a positive"),
        (Renamed, "kind must be 'soft-prompt'"),
    ],
)
def test_a_broken_delta_is_caught(delta: type[Flat], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_delta(delta())
