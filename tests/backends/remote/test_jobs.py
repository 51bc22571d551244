"""From requests to HTTP bodies and back, through a wire that says what it was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote.asking import Asking
from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.inputs import TextInputs
from blackbox_delta.backends.remote.jobs import jobs, shares
from blackbox_delta.backends.remote.shortening import shortened
from blackbox_delta.backends.remote.wires.readings import Exact
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Form, Input, WireReply
from blackbox_delta.backends.remote.wires.written import Written
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, ScoreRequest, Words

ASKING = Asking(Ask("m", label_ids=(1, 2)), Exact())
ASKING_WORDS = Asking(Ask("m", max_tokens=16), Written(("a", "b")))


class EchoInputs:
    """Names each pair; a prompt's tokens are its place plus one."""

    form: Form = "text"

    def count(self, request: ScoreRequest, prompt: int) -> int:
        return prompt + 1

    def input(self, request: ScoreRequest, candidate: int, prompt: int) -> Input:
        return f"{candidate}/{prompt}"


@dataclass
class EchoWire:
    """Its body is the list of prompts; its replies are handed through."""

    name: str = "echo"
    path: str = "echo"
    batches: bool = True
    counts: list[int] = field(default_factory=list)

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> dict[str, Any]:
        return {"prompts": list(prompts), "form": form, "ids": list(ask.label_ids or ())}

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        answers = tuple(Answer("", labels=tuple(one)) for one in payload.get("answers", ()))
        answers += tuple(map(Answer, payload.get("texts", ())))
        answers += (Answer("", withheld=True),) * payload.get("withheld", 0)
        if len(answers) != count:
            raise BrokenReply("too few")
        return WireReply(answers, payload.get("in"), payload.get("out"), payload.get("cached"))


def request(candidates: int, prompts: int) -> ScoreRequest:
    delta = DeltaBatch("soft-prompt", {"soft": np.zeros((candidates, 1, 1), np.float32)})
    texts = [Prompt((Words(str(at)), AnswerSlot())) for at in range(prompts)]
    return ScoreRequest(texts, (" a", " b"), delta)


@given(candidates=st.integers(0, 5), prompts=st.integers(0, 5), batch=st.integers(1, 8))
@settings(deadline=None)
def test_every_pair_goes_out_once_and_the_candidates_of_a_prompt_together(
    candidates: int, prompts: int, batch: int
) -> None:
    made = list(
        jobs(request(candidates, prompts), EchoWire(), ASKING, EchoInputs(), shortened, batch, 2)
    )
    bodies = [json.loads(job.body()) for job in made]
    assert all(body["form"] == "text" and body["ids"] == [1, 2] for body in bodies)
    sent = [prompt for body in bodies for prompt in body["prompts"]]
    assert sent == [f"{c}/{p}" for p in range(prompts) for c in range(candidates)]
    sizes = [len(body["prompts"]) for body in bodies]
    assert all(size == batch for size in sizes[:-1])
    assert [job.queries for job in made] == sizes
    for job, body in zip(made, bodies, strict=True):
        assert job.path == "echo"
        assert job.tokens == sum(int(prompt.split("/")[1]) + 1 for prompt in body["prompts"])


def test_a_reply_is_told_apart_by_its_pairs() -> None:
    first, second = jobs(request(2, 2), EchoWire(), ASKING, EchoInputs(), shortened, 3, 2)
    values = [[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]]
    part = first.read({"answers": values, "in": 80, "out": 4, "cached": 20})
    assert part.pairs == ((0, 0), (1, 0), (0, 1))
    assert [list(one.label_logprobs) for one in part.readings] == values
    assert part.tokens == (20, 20, 40)  # 1 : 1 : 2
    assert part.computed == (15, 15, 30)
    assert sum(part.output_tokens) == 4
    assert second.read({"answers": [[-1.0, -2.0]]}).pairs == ((1, 1),)
    with pytest.raises(BrokenReply):
        second.read({"answers": values})


def test_what_a_server_does_not_tell_is_estimated_or_the_most_that_it_may_be() -> None:
    [job] = jobs(request(2, 2), EchoWire(), ASKING, EchoInputs(), shortened, 4, 2)
    part = job.read({"answers": [[-1.0, -1.0]] * 4})
    assert part.tokens == part.computed == (1, 1, 2, 2)
    assert part.output_tokens == (2, 2, 2, 2)


def test_zeros_are_no_count_where_something_was_read_and_written() -> None:
    """Gateways fill the usage that they are not told with zeros; budgets would never end."""
    [job] = jobs(request(2, 2), EchoWire(), ASKING, EchoInputs(), shortened, 4, 2)
    part = job.read({"answers": [[-1.0, -1.0]] * 4, "in": 0, "out": 0, "cached": 0})
    assert part.tokens == part.computed == (1, 1, 2, 2)
    assert part.output_tokens == (2, 2, 2, 2)


def test_an_answer_of_no_tokens_is_free() -> None:
    [job] = jobs(request(1, 1), EchoWire(), ASKING_WORDS, EchoInputs(), shortened, 4, 16)
    assert job.read({"texts": [""], "out": 0}).output_tokens == (0,)
    assert job.read({"texts": ["a"], "out": 0}).output_tokens == (16,)
    assert job.read({"texts": ["a"], "out": 3}).output_tokens == (3,)


def test_a_text_that_is_stopped_may_be_billed_as_read() -> None:
    [_, job] = jobs(request(1, 2), EchoWire(), ASKING, EchoInputs(), shortened, 1, 2)
    assert job.withheld is not None
    part = job.withheld("HTTP 400: filtered")
    assert (part.pairs, part.withheld, part.reason) == (((0, 1),), 1, "HTTP 400: filtered")
    assert (part.tokens, part.computed, part.output_tokens) == ((2,), (0,), (0,))
    [reading] = part.readings
    np.testing.assert_allclose(np.exp(reading.label_logprobs), 0.5, rtol=1e-6)
    assert reading.unparsed == 1


def test_a_text_that_is_too_long_is_asked_about_in_part() -> None:
    words, answer = Words("a dull film", truncatable=True), AnswerSlot()
    whole = ScoreRequest([Prompt((Words("x"), answer)), Prompt((words, answer))], (" a", " b"))
    inputs = TextInputs(1.0, 0.0)
    [first, job] = jobs(whole, EchoWire(), ASKING, inputs, shortened, 1, 2)
    assert first.shorter is not None
    assert first.shorter() is None
    for text in ("a dull f", "a dull", "a du"):
        assert job.shorter is not None
        job = job.shorter()
        assert json.loads(job.body())["prompts"] == [text]
        assert (job.queries, job.tokens) == (1, len(text))
        assert job.words is not None
        assert job.words() == text
        assert job.read({"answers": [[-1.0, -2.0]]}).pairs == ((0, 1),)


def test_texts_that_are_stopped_together_can_be_asked_about_one_by_one() -> None:
    [whole] = jobs(request(2, 2), EchoWire(), ASKING, EchoInputs(), shortened, 4, 2)
    assert whole.withheld is None
    assert whole.apart is not None
    apart = whole.apart()
    assert [json.loads(job.body())["prompts"] for job in apart] == [
        ["0/0"],
        ["1/0"],
        ["0/1"],
        ["1/1"],
    ]
    assert [job.tokens for job in apart] == [1, 1, 2, 2]
    part = apart[2].read({"answers": [[-1.0, -2.0]], "in": 9})
    assert (part.pairs, part.tokens) == (((0, 1),), (9,))
    assert all(job.apart is None and job.words is not None for job in apart)


def test_withheld_answers_of_a_reply_are_counted_and_the_others_read() -> None:
    [job] = jobs(request(1, 2), EchoWire(), ASKING, EchoInputs(), shortened, 2, 2)
    part = job.read({"answers": [[-1.0, -2.0]], "withheld": 1, "in": 9, "out": 1})
    first, second = part.readings
    assert list(first.label_logprobs) == [-1.0, -2.0]
    assert (first.unparsed, second.unparsed, part.withheld) == (0, 1, 1)
    assert "content_filter" in part.reason
    assert part.tokens == (3, 6)


def test_more_cached_than_sent_is_all_cached() -> None:
    [job] = jobs(request(1, 1), EchoWire(), ASKING, EchoInputs(), shortened, 4, 2)
    part = job.read({"answers": [[-1.0, -1.0]], "in": 5, "cached": 9})
    assert (part.tokens, part.computed) == ((5,), (0,))


@given(weights=st.lists(st.integers(0, 1000), min_size=1), total=st.integers(0, 10**6))
@settings(deadline=None)
def test_shares_are_whole_fair_and_add_up(weights: list[int], total: int) -> None:
    parts = shares(weights, total)
    if not sum(weights):
        assert parts == (0,) * len(weights)
        return
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert part >= 0
        assert abs(part - total * weight / sum(weights)) < len(weights)
