"""llama.cpp's own wire, on a reply of a live server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.llama_cpp import Completion
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.wire import Ask, Token
from blackbox_delta.errors import UnsupportedError

REPLIES = Path(__file__).with_name("replies")
WIRE = Completion(PRESETS["llama.cpp"].offers[0])
TOP = Ask("m", top_k=3)


def reply() -> Any:
    return json.loads((REPLIES / "llama.cpp-completion-top.json").read_text())


def test_body_asks_for_top_tokens() -> None:
    assert WIRE.body(["It was"], Ask("m", top_k=3, bias={7: 2.0})) == {
        "model": "m",
        "prompt": "It was",
        "n_predict": 1,
        "temperature": 0,
        "n_probs": 3,
        "logit_bias": [[7, 2.0]],
    }
    assert WIRE.body([(1, 2)], Ask("m"), "ids")["prompt"] == [1, 2]
    with pytest.raises(UnsupportedError, match="chosen tokens"):
        WIRE.body(["It was"], Ask("m", label_ids=(1,)))


def test_reads_top_tokens_and_usage() -> None:
    found = WIRE.read(reply(), TOP, 1)
    assert found.answers[0].text == " a"
    assert found.answers[0].top == (
        Token(253, b" a", -1.6890544891357422),
        Token(260, b" the", -2.4680423736572266),
        Token(441, b" not", -2.7505149841308594),
    )
    assert (found.prompt_tokens, found.output_tokens, found.cached_tokens) == (12, 1, 11)
    assert WIRE.read(reply(), Ask("m"), 1).answers[0].top == ()


@pytest.mark.parametrize(
    "change",
    [
        {"content": None},
        {"index": 1},
        {"error": {"code": 503}},
        {"completion_probabilities": None},
        {"completion_probabilities": []},
        {"completion_probabilities": [{"top_probs": []}]},
        {"completion_probabilities": [{"top_logprobs": []}]},
        {"completion_probabilities": [{"top_logprobs": [{"token": "a", "logprob": -1}] * 3}]},
        {"tokens_evaluated": "7"},
        {"timings": {"cache_n": -1}},
    ],
)
def test_refuses_everything_else(change: dict[str, Any]) -> None:
    with pytest.raises(BrokenReply):
        WIRE.read(reply() | change, TOP, 1)
    with pytest.raises(BrokenReply):
        WIRE.read([reply()], TOP, 1)
