"""The completions wire, on replies of live servers and on documented ones of other servers."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.completions import Completions
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Token, token_id
from blackbox_delta.errors import UnsupportedError

REPLIES = Path(__file__).with_name("replies")


def reply(name: str) -> Any:
    return json.loads((REPLIES / f"{name}.json").read_text())


def offer(preset: str) -> Offer:
    return next(o for o in PRESETS[preset].offers if o.wire == "completions")


VLLM = Completions(offer("vllm"))
LABELS = (1109, 3309, 14867)


def test_body_asks_for_top_tokens_by_id() -> None:
    body = VLLM.body(["a", "b"], Ask("m", top_k=5, bias={3: 1.5}))
    assert body == {
        "model": "m",
        "prompt": ["a", "b"],
        "max_tokens": 1,
        "temperature": 0,
        "repetition_penalty": 1.0,
        "logprobs": 5,
        "return_tokens_as_token_ids": True,
        "logit_bias": {"3": 1.5},
    }
    json.dumps(body, allow_nan=False)


def test_body_asks_for_labels_with_as_many_logprobs() -> None:
    body = VLLM.body(["a"], Ask("m", label_ids=LABELS))
    assert (body["prompt"], body["logprobs"]) == ("a", 3)
    assert body["logprob_token_ids"] == list(LABELS)


def test_body_takes_embeddings_and_ids() -> None:
    body = VLLM.body(["QUJD", "REVG"], Ask("m"), "embeds")
    assert body["prompt_embeds"] == ["QUJD", "REVG"]
    assert "prompt" not in body
    assert "logprobs" not in body
    assert VLLM.body([[1, 2]], Ask("m"), "ids")["prompt"] == [1, 2]
    assert VLLM.body([[1, 2], [3]], Ask("m"), "ids")["prompt"] == [[1, 2], [3]]


def test_body_refuses_what_the_server_does_not_take() -> None:
    openai = Completions(offer("openai"))
    with pytest.raises(UnsupportedError, match="does not take prompts as embeds"):
        openai.body(["QUJD"], Ask("m"), "embeds")
    with pytest.raises(UnsupportedError, match="at most 0 chosen tokens"):
        openai.body(["a"], Ask("m", label_ids=(1,)))
    with pytest.raises(ValueError, match="1 to 16 prompts, not 17"):
        openai.body(["a"] * 17, Ask("m"))
    with pytest.raises(ValueError, match="not 0"):
        VLLM.body([], Ask("m"))


def test_reads_the_top_tokens_that_vllm_gave() -> None:
    found = VLLM.read(reply("vllm-completions-top"), Ask("m", top_k=5), 2)
    first = found.answers[0]
    assert first.text == " a"
    assert [token.id for token in first.top] == [253, 957, 260, 588, 5485]  # 588, 5485 are a tie
    assert first.top[0] == Token(253, b"", -1.2778708934783936)
    assert (found.prompt_tokens, found.output_tokens, found.cached_tokens) == (14, 2, None)


def test_ids_and_texts_tell_the_same() -> None:
    text = Completions(Offer("completions", "completions", batch=2, counted=True))
    by_text = text.read(reply("vllm-completions-top-as-text"), Ask("m", top_k=5), 2)
    by_id = VLLM.read(reply("vllm-completions-top"), Ask("m", top_k=5), 2)
    for one, other in zip(by_text.answers, by_id.answers, strict=True):
        assert [t.logprob for t in one.top] == [t.logprob for t in other.top]
    assert by_text.answers[0].top[0] == Token(None, b" a", -1.2778708934783936)


def test_reads_the_labels_in_the_order_asked() -> None:
    payload = reply("vllm-completions-labels")
    found = VLLM.read(payload, Ask("m", label_ids=LABELS), 2).answers[1]
    assert found.labels == (-5.732305526733398, -4.857305526733398, -6.544805526733398)
    assert found.top == ()
    turned = VLLM.read(payload, Ask("m", label_ids=LABELS[::-1]), 2).answers[1]
    assert turned.labels == found.labels[::-1]


def test_a_server_that_ignores_label_ids_is_noticed() -> None:
    with pytest.raises(BrokenReply, match="lack 3 of the 3 tokens"):
        VLLM.read(reply("vllm-completions-top"), Ask("m", label_ids=LABELS), 2)


def test_reads_embeddings_replies_and_plain_text() -> None:
    embeds = VLLM.read(reply("vllm-completions-embeds"), Ask("m", top_k=3), 2)
    assert embeds.answers[0] == embeds.answers[1]
    text = VLLM.read(reply("vllm-completions-text"), Ask("m", max_tokens=8), 2)
    assert text.answers[0].text == " a great experience. I'm so glad"
    assert text.answers[0].top == ()
    assert text.output_tokens == 16


def test_vllm_takes_values_before_the_bias() -> None:
    biased = VLLM.read(reply("vllm-completions-biased"), Ask("m", top_k=3), 1).answers[0]
    plain = VLLM.read(reply("vllm-completions-top"), Ask("m", top_k=3), 2).answers[0]
    assert biased.text == " great"
    assert biased.top == plain.top  # the fourth, sampled token is left out


def test_a_wrong_order_is_put_right() -> None:
    payload = reply("vllm-completions-labels")
    turned = copy.deepcopy(payload)
    turned["choices"].reverse()
    ask = Ask("m", label_ids=LABELS)
    assert VLLM.read(turned, ask, 2) == VLLM.read(payload, ask, 2)


def test_cached_tokens_count_for_one_prompt() -> None:
    payload = reply("vllm-completions-top")
    payload["choices"].pop()
    payload["usage"]["prompt_tokens_details"]["cached_tokens"] = 4
    assert VLLM.read(payload, Ask("m", top_k=5), 1).cached_tokens == 4


@pytest.mark.parametrize(
    ("preset", "name", "ids", "texts"),
    [
        ("llama.cpp", "llama.cpp-completions-top", [253, 260], [b" a", b" the"]),
        ("ollama", "ollama-completions-top.documented", [None, None], [b" great", b" good"]),
        ("openai", "openai-completions-top.documented", [None, None], [b" great", b" good"]),
    ],
)
def test_reads_other_servers(
    preset: str, name: str, ids: list[int | None], texts: list[bytes]
) -> None:
    top = Completions(offer(preset)).read(reply(name), Ask("m", top_k=2), 1).answers[0].top
    assert [token.id for token in top] == ids
    assert [token.text for token in top] == texts


def one(**changes: Any) -> Any:
    """A reply to one prompt, two top tokens, with parts of its choice or its logprobs changed."""
    logprobs = {"tokens": ["a"], "top_logprobs": [{"a": -0.5, "b": -1.5}]}
    choice: dict[str, Any] = {"index": 0, "text": "a", "logprobs": logprobs}
    logprobs |= changes.pop("logprobs", {})
    return {"choices": [choice | changes]}


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [one()["choices"][0]] * 2},
        {"error": {"message": "no"}, **one()},
        one(error={"message": "no"}),
        one(index=1),
        one(index=-1),
        one(index=None),
        one(index=False),
        one(index=0.0),
        one(text=None),
        one(text="\ud800"),
        one(logprobs={"tokens": []}),
        one(logprobs={"top_logprobs": None}),
        one(logprobs={"top_logprobs": []}),
        one(logprobs={"top_logprobs": [None]}),
        one(logprobs={"top_logprobs": [{}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5}]}),  # one of two
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": None}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": True}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": "-1"}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": math.nan}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": -math.inf}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": math.inf}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": 0.01}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": -(10**400)}]}),
        one(logprobs={"top_logprobs": [{"a": -0.5, "b": -0.5}]}),  # adds up to 1.2
        one(logprobs={"content": []}),
        one(logprobs={"content": [{"top_logprobs": None}]}),
        {**one(), "usage": {"prompt_tokens": -1}},
        {**one(), "usage": {"prompt_tokens": 1.5}},
        {**one(), "usage": {"completion_tokens": True}},
    ],
)
def test_refuses_everything_else(payload: Any) -> None:
    wire = Completions(Offer("completions", "completions"))
    assert wire.read(one(), Ask("m", top_k=2), 1).answers[0].top[1].logprob == -1.5
    with pytest.raises(BrokenReply):
        wire.read(payload, Ask("m", top_k=2), 1)


@pytest.mark.parametrize(
    "shown", [None, {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}]
)
def test_an_answer_that_ended_at_once_is_not_a_broken_reply(shown: Any) -> None:
    wire, ask = Completions(Offer("completions", "completions", batch=2)), Ask("m", top_k=2)
    choice = {"index": 1, "text": "", "finish_reason": "stop", "logprobs": shown}
    both = {"choices": [*one()["choices"], choice]}
    said, silent = wire.read(both, ask, 2).answers
    assert len(said.top) == 2
    assert silent == Answer("", ended="stop", silent=True)
    choice["logprobs"] = {"tokens": [], "top_logprobs": [{"a": -0.5, "b": -1.5}]}
    with pytest.raises(BrokenReply):
        wire.read(both, ask, 2)


def test_rounding_above_zero_is_zero_and_stand_ins_for_nothing_are_dropped() -> None:
    wire = Completions(Offer("completions", "completions", may_be_fewer=True))
    payload = one(logprobs={"top_logprobs": [{"a": 5e-4, "b": -9999.0, "c": -3.4e38}]})
    assert wire.read(payload, Ask("m", top_k=3), 1).answers[0].top == (Token(None, b"a", 0.0),)
    labels = one(logprobs={"top_logprobs": [{"token_id:1": -9999.0, "token_id:2": -0.5}]})
    assert VLLM.read(labels, Ask("m", label_ids=(2, 1)), 1).answers[0].labels == (-0.5, -100.0)


def test_a_duplicated_and_a_missing_answer_are_refused() -> None:
    payload = reply("vllm-completions-labels")
    ask = Ask("m", label_ids=LABELS)
    with pytest.raises(BrokenReply, match="2 prompts"):
        VLLM.read({"choices": payload["choices"][:1]}, ask, 2)
    with pytest.raises(BrokenReply, match="two answers to prompt 1"):
        VLLM.read({"choices": payload["choices"][1:] * 2}, ask, 2)


def test_tokens_that_should_be_ids_are_refused_as_text() -> None:
    with pytest.raises(BrokenReply, match="by their ids"):
        VLLM.read(reply("vllm-completions-top-as-text"), Ask("m", top_k=5), 2)


def test_messages_never_quote_the_reply() -> None:
    with pytest.raises(BrokenReply) as caught:
        VLLM.read({"error": {"message": "bad key sk-secret"}}, Ask("m"), 1)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": -1},
        {"max_tokens": 0},
        {"top_k": 1, "label_ids": (1,)},
        {"label_ids": ()},
        {"label_ids": (1, 1)},
        {"label_ids": (-1,)},
        {"label_ids": (2**31,)},
        {"bias": {-1: 1.0}},
        {"bias": {1: math.inf}},
    ],
)
def test_an_impossible_ask_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Ask("m", **fields)


def test_stand_in_ids_are_stable_and_small() -> None:
    assert token_id(b" great") == 0x01CA3F83 >> 1  # printf ' great' | sha256sum
    assert all(0 <= token_id(bytes([byte])) < 2**31 for byte in range(256))
    assert len({token_id(bytes([byte])) for byte in range(256)}) == 256
