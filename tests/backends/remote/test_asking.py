"""Which question gets the most out of a server, rule by rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blackbox_delta.backends.remote import Access
from blackbox_delta.backends.remote.asking import LabelTokens, asking, single_tokens
from blackbox_delta.backends.remote.wires.readings import Exact, TopTokens, Unbiased
from blackbox_delta.backends.remote.wires.wire import Answer, Token
from blackbox_delta.backends.remote.wires.written import Written
from blackbox_delta.errors import VerbalizerError

CHOICES = (" good", " bad")
TOKENS = LabelTokens((7, 3), neighbours=(5, 9, 1))


def access(tier: str = "label-logprobs", api: str = "completions", **more: object) -> Access:
    return Access.of({"preset": "vllm", "api": api, "tier": tier, "max_top_k": 20, **more})


@pytest.mark.parametrize("tier", ["embeddings", "label-logprobs"])
@pytest.mark.parametrize("top_k", [0, 2, 3])
def test_known_tokens_are_asked_for_where_the_server_tells_them(tier: str, top_k: int) -> None:
    question = asking(access(tier, label_ids=True, bias=10.0), "m", CHOICES, TOKENS, top_k)
    assert question.ask.label_ids == (7, 3, *(5, 9, 1)[:top_k])
    assert (question.ask.top_k, question.ask.bias, question.ask.max_tokens) == (0, None, 1)
    assert question.rule == Exact((5, 9, 1)[:top_k])
    values = (-1.0, -2.0, -9.0, -3.0, -5.0)[: 2 + top_k]
    read = question.rule(Answer("", labels=values))
    assert read.label_logprobs.tolist() == [-1.0, -2.0]
    found = sorted(zip(values[2:], (5, 9, 1), strict=False), reverse=True)
    assert list(zip(read.top_logprobs, read.top_ids, strict=True)) == found


def test_more_top_tokens_than_neighbours_are_read_off_the_likeliest() -> None:
    question = asking(access(label_ids=True), "m", CHOICES, TOKENS, 4)
    assert question.ask.label_ids is None
    assert question.ask.top_k == 20
    read = question.rule(Answer("", top=tuple(Token(at, b"", -at - 1.0) for at in range(8))))
    assert read.label_logprobs.tolist() == [-8.0, -4.0]
    assert read.top_ids.tolist() == [0, 1, 2, 3]
    assert read.bounded == 0


@pytest.mark.parametrize(
    ("tier", "tokens", "more"),
    [
        ("top-tokens", TOKENS, {"label_ids": True, "bias": 10.0}),  # less was asked for
        ("label-logprobs", None, {"label_ids": True, "bias": 10.0}),  # ids are not known
        ("label-logprobs", TOKENS, {}),
    ],
)
def test_otherwise_all_that_the_server_gives_is_asked_for(
    tier: str, tokens: LabelTokens | None, more: dict[str, object]
) -> None:
    question = asking(access(tier, **more), "m", CHOICES, tokens, 1)
    assert (question.ask.top_k, question.ask.label_ids, question.ask.bias) == (20, None, None)
    assert isinstance(question.rule, TopTokens)
    assert question.rule.top_k == 1
    assert not question.rule.labels.chat


def test_a_bias_lifts_labels_into_sight_and_is_taken_off_again() -> None:
    question = asking(access(bias=4.0), "m", CHOICES, TOKENS, 0)
    assert question.ask.bias == {7: 4.0, 3: 4.0}
    assert question.ask.top_k == 20
    assert isinstance(question.rule, Unbiased)
    probabilities = np.array([0.5, 0.3, 0.15, 0.04, 0.006, 0.002, 0.001, 0.001])  # of tokens 0 to 7
    lifted = probabilities * np.where(np.isin(np.arange(8), [7, 3]), math.exp(4.0), 1.0)
    lifted /= lifted.sum()
    top = tuple(Token(int(at), b"", math.log(lifted[at])) for at in np.argsort(-lifted))
    read = question.rule(Answer("", top=top))
    np.testing.assert_allclose(read.label_logprobs, np.log(probabilities[[7, 3]]), atol=1e-5)


def test_a_biased_distribution_shows_no_top_tokens_so_it_is_not_asked_for_with_them() -> None:
    question = asking(access(bias=4.0), "m", CHOICES, TOKENS, 2)
    assert question.ask.bias is None
    assert isinstance(question.rule, TopTokens)


def test_a_chat_is_matched_by_its_words() -> None:
    question = asking(access("top-tokens", api="chat"), "m", CHOICES, None, 0)
    read = question.rule(Answer("", top=(Token(None, b"Good", -0.5), Token(None, b"bad", -2.0))))
    assert read.label_logprobs.tolist() == [-0.5, -2.0]


def test_text_is_read_where_there_is_nothing_else() -> None:
    question = asking(access("text", label_ids=True, bias=1.0), "m", CHOICES, TOKENS, 0)
    assert (question.ask.logprobs, question.ask.bias) == (0, None)
    assert question.ask.max_tokens > 1
    assert isinstance(question.rule, Written)
    assert question.rule(Answer("It is bad.")).label_logprobs.argmax() == 1


def test_label_words_are_single_tokens() -> None:
    codes = {" good": [1], " bad": [2], " Sci/Tech": [3, 4, 5], " fine": [1], "": []}
    assert single_tokens([" bad", " good"], codes.__getitem__) == (2, 1)
    with pytest.raises(VerbalizerError, match=r"splits the label words ' Sci/Tech' \(3 tokens\)"):
        single_tokens([" good", " Sci/Tech"], codes.__getitem__)
    with pytest.raises(VerbalizerError, match="cannot tell .*' good', ' fine'"):
        single_tokens([" good", " fine"], codes.__getitem__)
    with pytest.raises(VerbalizerError, match="0 tokens"):
        single_tokens([" good", ""], codes.__getitem__)
