"""However replies come in, the scores are the same and nothing is counted twice."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote.collecting import Collector
from blackbox_delta.backends.remote.http.exchange import Answered, Job
from blackbox_delta.backends.remote.jobs import Pair, PartReply
from blackbox_delta.backends.remote.wires.readings import Reading, nothing
from blackbox_delta.backends.remote.withheld import Withheld
from blackbox_delta.errors import RejectedError
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, Reply, ScoreRequest, Sink, Words

C, K = 2, 3


def request(candidates: int, prompts: int) -> ScoreRequest:
    delta = DeltaBatch("soft-prompt", {"soft": np.zeros((candidates, 1, 1), np.float32)})
    texts = [Prompt((Words(str(at)), AnswerSlot())) for at in range(prompts)]
    return ScoreRequest(texts, (" a", " b"), delta, top_k=K)


def reading(pair: Pair) -> Reading:
    rng = np.random.default_rng(pair)
    labels, top = -rng.random(C), -np.sort(rng.random(K))
    ids = rng.permutation(100)[:K]
    bounded = int(rng.integers(C + 1))
    return Reading(np.float32(labels), np.int64(ids), np.float32(top), bounded, pair[0] % 2)


def answered(pairs: list[Pair], lost: int = 0) -> Answered[PartReply]:
    part = PartReply(
        tuple(pairs),
        tuple(map(reading, pairs)),
        tuple(10 + candidate + 5 * prompt for candidate, prompt in pairs),
        tuple(3 + prompt for _, prompt in pairs),
        tuple(1 + candidate for candidate, _ in pairs),
    )
    job: Job[PartReply] = Job("", bytes, lambda _: part, len(pairs), 0)
    return Answered(job, part, lost * len(pairs), 0.1)


class Server:
    base_url = "https://toy.example/v1"

    def excerpt(self, text: str) -> str:
        return text


def collecting(asked: ScoreRequest, sink: Sink | None, clock: Callable[[], float]) -> Collector:
    return Collector(asked, sink, clock, Withheld(Server()))


def ticking(step: float) -> Callable[[], float]:
    times = itertools.count()
    return lambda: 100.0 + step * next(times)


@given(
    candidates=st.integers(1, 4), prompts=st.integers(1, 5), batch=st.integers(1, 6), data=st.data()
)
@settings(deadline=None)
def test_neither_order_nor_batches_matter(
    candidates: int, prompts: int, batch: int, data: st.DataObject
) -> None:
    asked = request(candidates, prompts)
    pairs = list(itertools.product(range(candidates), range(prompts)))
    shuffled = data.draw(st.permutations(pairs))
    parts = [list(shuffled[at : at + batch]) for at in range(0, len(pairs), batch)]
    lost = [data.draw(st.integers(0, 2)) for _ in parts]

    taken: list[Reply] = []
    collector = collecting(asked, taken.extend, ticking(0.5))
    for part, times in zip(parts, lost, strict=True):
        collector.take(answered(part, times))
    scores = collector.scores()

    for pair in pairs:
        expected = reading(pair)
        np.testing.assert_array_equal(scores.label_logprobs[pair], expected.label_logprobs)
        np.testing.assert_array_equal(scores.top_ids[pair], expected.top_ids)
        np.testing.assert_array_equal(scores.top_logprobs[pair], expected.top_logprobs)
    assert Counter((one.candidate, one.prompt) for one in taken) == Counter(pairs)
    usage = scores.usage
    sent = {pair: 1 + times for part, times in zip(parts, lost, strict=True) for pair in part}
    assert usage.queries == len(pairs)
    assert usage.lost == sum(sent.values()) - len(pairs)
    assert usage.tokens == sum((10 + c + 5 * p) * sent[c, p] for c, p in pairs)
    assert usage.output_tokens == sum((1 + c) * sent[c, p] for c, p in pairs)
    assert usage.computed_tokens == sum(3 + p for _, p in pairs)
    assert usage.bounded == sum(reading(pair).bounded for pair in pairs)
    assert usage.unparsed == sum(c % 2 for c, _ in pairs)
    assert usage.seconds == pytest.approx(0.5 * len(parts))
    total = sum((one.usage for one in taken[1:]), taken[0].usage)
    assert (total.tokens, total.lost, total.queries) == (usage.tokens, usage.lost, usage.queries)


def test_types_are_those_of_the_contract() -> None:
    collector = collecting(request(2, 1), None, ticking(1))
    collector.take(answered([(0, 0), (1, 0)]))
    scores = collector.scores()
    assert scores.label_logprobs.shape == (2, 1, C)
    assert scores.top_ids.shape == scores.top_logprobs.shape == (2, 1, K)
    dtypes = [scores.label_logprobs.dtype, scores.top_ids.dtype, scores.top_logprobs.dtype]
    assert dtypes == [np.float32, np.int64, np.float32]


def test_a_sink_that_raises_ends_it_before_anything_is_counted() -> None:
    def full(replies: object) -> None:
        raise OSError("no space left")

    collector = collecting(request(1, 1), full, ticking(1))
    with pytest.raises(OSError, match="no space"):
        collector.take(answered([(0, 0)]))
    assert collector.scores().usage.queries == 0


def test_what_never_came_is_not_a_number() -> None:
    scores = collecting(request(1, 2), None, ticking(1)).scores()
    assert np.isnan(scores.label_logprobs).all()


def test_what_is_withheld_is_a_reply_like_others_unless_there_is_nothing_else() -> None:
    def stopped(pair: Pair) -> Answered[PartReply]:
        part = PartReply((pair,), (nothing(C, K),), (7,), (0,), (0,), 1, "HTTP 400")
        return Answered(Job("", bytes, lambda _: part, 1, 0), part, 0, 0.1)

    taken: list[Reply] = []
    collector = collecting(request(1, 40), taken.extend, ticking(1))
    collector.take(answered([(0, 0)]))
    for prompt in range(1, 40):
        collector.take(stopped((0, prompt)))
    usage = collector.scores().usage
    assert (usage.queries, usage.unparsed) == (40, 39)
    assert usage.tokens == 10 + 39 * 7

    taken.clear()
    collector = collecting(request(1, 40), taken.extend, ticking(1))
    for prompt in range(19):
        collector.take(stopped((0, prompt)))
    with pytest.raises(RejectedError, match="stopped all of 20 questions"):
        collector.take(stopped((0, 19)))
    # What is not handed on is not kept: once the filter is off, it is asked again.
    assert len(taken) == 19
