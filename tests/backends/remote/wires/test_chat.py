"""The chat wire, on replies of a live vLLM and on documented ones of other servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.chat import Chat
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Token

REPLIES = Path(__file__).with_name("replies")


def reply(name: str) -> Any:
    return json.loads((REPLIES / f"{name}.json").read_text())


def chat(preset: str) -> Chat:
    return Chat(next(o for o in PRESETS[preset].offers if o.wire == "chat"))


def test_body_is_one_turn_of_the_user() -> None:
    body = chat("openai").body(["Good?"], Ask("gpt", top_k=20))
    assert body == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "Good?"}],
        "max_completion_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_bodies_differ_as_the_presets_say() -> None:
    together = chat("together").body(["Good?"], Ask("m", top_k=5))
    assert (together["logprobs"], "top_logprobs" in together) == (5, False)
    openrouter = chat("openrouter").body(["Good?"], Ask("m"))
    assert openrouter["max_tokens"] == 16
    assert openrouter["provider"] == {"require_parameters": True}
    plain = Chat(Offer("chat", "chat/completions", temperature=False)).body(["?"], Ask("m"))
    assert "temperature" not in plain
    labels = chat("vllm").body(["Good?"], Ask("m", label_ids=(1, 2)))
    assert labels["logprob_token_ids"] == [1, 2]
    assert labels["return_tokens_as_token_ids"] is True
    assert "return_tokens_as_token_ids" not in chat("vllm").body(["?"], Ask("m", top_k=2))


def test_one_prompt_a_request() -> None:
    with pytest.raises(ValueError, match="not 2"):
        chat("vllm").body(["a", "b"], Ask("m"))
    assert not chat("vllm").batches


def test_reads_what_vllm_gave() -> None:
    wire = chat("vllm")
    found = wire.read(reply("vllm-chat-top"), Ask("m", top_k=5), 1)
    top = found.answers[0].top
    assert len(top) == 5
    assert found.answers[0].text.encode() == top[0].text
    assert all(token.id is None for token in top)
    assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
    labels = wire.read(reply("vllm-chat-labels"), Ask("m", label_ids=(3309, 1109)), 1)
    assert labels.answers[0].labels == (-13.1843900680542, -17.809389114379883)
    assert (labels.prompt_tokens, labels.output_tokens, labels.cached_tokens) == (49, 1, 32)
    text = wire.read(reply("vllm-chat-text"), Ask("m", max_tokens=8), 1)
    assert text.answers[0].text.startswith("This")


def test_reads_other_servers() -> None:
    openai = chat("openai").read(reply("openai-chat-top.documented"), Ask("m", top_k=20), 1)
    assert openai.answers[0].text == "Hello!"
    assert openai.answers[0].top == (  # of the first position alone, and fewer than 20
        Token(None, b"Hello", -0.31725305),
        Token(None, b"Hi", -1.3190403),
    )
    together = chat("together").read(reply("together-chat-top.documented"), Ask("m", top_k=1), 1)
    assert together.answers[0].top == (Token(None, b"New", -0.39648438),)
    anthropic = chat("anthropic").read(reply("anthropic-chat-text.documented"), Ask("m"), 1)
    assert anthropic.answers[0].text == "**Great.**"


def test_a_server_that_ignores_logprobs_is_noticed() -> None:
    with pytest.raises(BrokenReply, match="logprobs should be an object but is missing"):
        chat("anthropic").read(reply("anthropic-chat-text.documented"), Ask("m", top_k=1), 1)


def with_tokens(*entries: Any, content: Any = "x") -> Any:
    logprobs = {"content": [{"token": "x", "logprob": -1, "top_logprobs": list(entries)}]}
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "logprobs": logprobs}]}


def token(text: str, logprob: Any, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, **more}


def test_pieces_of_characters_are_told_apart_by_their_bytes() -> None:
    payload = with_tokens(token("�", -1, bytes=[240]), token("�", -2, bytes=[159]))
    found = chat("vllm").read(payload, Ask("m", top_k=2), 1).answers[0].top
    assert [t.text for t in found] == [b"\xf0", b"\x9f"]


def test_of_two_tokens_that_look_the_same_the_likelier_counts() -> None:
    payload = with_tokens(token("�", -2), token("�", -1), token("a", -3, bytes=None))
    found = chat("vllm").read(payload, Ask("m", top_k=3), 1).answers[0].top
    assert found == (Token(None, "�".encode(), -1.0), Token(None, b"a", -3.0))


def test_a_model_that_wrote_nothing_is_not_a_broken_reply() -> None:
    """Reasoning may use up all tokens; that is counted as unparsed, not sent again."""
    assert chat("openai").read(with_tokens(content=None), Ask("m"), 1).answers[0].text == ""


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": None}, "logprobs": None},
        {"message": None},
        {"message": {"role": "assistant", "content": ""}, "logprobs": {"content": []}},
    ],
)
@pytest.mark.parametrize("ask", [Ask("m"), Ask("m", top_k=2), Ask("m", label_ids=(1, 2))])
def test_an_answer_that_a_filter_stopped_is_not_a_broken_reply(ask: Ask, choice: Any) -> None:
    payload = {"choices": [{"index": 0, **choice, "finish_reason": "content_filter"}]}
    assert chat("vllm").read(payload, ask, 1).answers[0] == Answer(
        "", ended="content_filter", withheld=True
    )
    payload["choices"][0]["finish_reason"] = "length"
    if ask.logprobs:
        with pytest.raises(BrokenReply):
            chat("vllm").read(payload, ask, 1)


@pytest.mark.parametrize("shown", [{}, {"logprobs": None}, {"logprobs": {"content": []}}])
def test_an_answer_that_ended_at_once_is_not_a_broken_reply(shown: Any) -> None:
    """Some servers show no log-probabilities of the token that ends an answer."""
    choice = {"index": 0, "message": {"content": ""}, "finish_reason": "stop", **shown}
    ask = Ask("m", top_k=2)
    silent = Answer("", ended="stop", silent=True)
    assert chat("ollama").read({"choices": [choice]}, ask, 1).answers == (silent,)
    for change in ({"finish_reason": "length"}, {"message": {"content": "a"}}, {"message": None}):
        with pytest.raises(BrokenReply):
            chat("ollama").read({"choices": [choice | change]}, ask, 1)


def test_what_came_before_the_filter_counts() -> None:
    payload = with_tokens(token("a", -1), token("b", -2))
    payload["choices"][0]["finish_reason"] = "content_filter"
    answer = chat("vllm").read(payload, Ask("m", top_k=2), 1).answers[0]
    assert len(answer.top) == 2
    assert not answer.withheld


@pytest.mark.parametrize(
    "payload",
    [
        with_tokens(),
        with_tokens(token("a", -1)),
        with_tokens(token("a", -1), None),
        with_tokens(token("a", -1), token("b", -2, bytes=[256])),
        with_tokens(token("a", -1), token("b", -2, bytes=[True])),
        with_tokens(token("a", -1), token("b", -2, bytes="b")),
        with_tokens(token("a", -1), token("b", -2, id=-1)),
        with_tokens(token("a", -1), token("b", -2, id=2**31)),
        with_tokens(token("a", -1), {"token": "b"}),
        with_tokens(token("a", -1), {"logprob": -2}),
        with_tokens(token("a", -1), token("b", -2), content=7),
        {"choices": [{"index": 0, "message": None}]},
    ],
)
def test_refuses_everything_else(payload: Any) -> None:
    with pytest.raises(BrokenReply):
        chat("vllm").read(payload, Ask("m", top_k=2), 1)


def test_one_label_with_two_values_is_refused() -> None:
    payload = with_tokens(token("token_id:1", -1), token("token_id:1", -2))
    with pytest.raises(BrokenReply, match="twice"):
        chat("vllm").read(payload, Ask("m", label_ids=(1,)), 1)
