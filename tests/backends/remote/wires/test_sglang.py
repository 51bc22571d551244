"""SGLang's own wire, on replies in the documented form."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.sglang import Generate
from blackbox_delta.backends.remote.wires.wire import Ask, Token

REPLIES = Path(__file__).with_name("replies")
WIRE = Generate(PRESETS["sglang"].offers[0])
TOP = Ask("m", top_k=3)


def reply(name: str) -> Any:
    return json.loads((REPLIES / f"sglang-generate-{name}.documented.json").read_text())


def test_body_asks_for_top_tokens() -> None:
    assert WIRE.body(["a", "b"], Ask("m", top_k=3, bias={7: 2.0}, max_tokens=2)) == {
        "text": ["a", "b"],
        "sampling_params": {"max_new_tokens": 2, "temperature": 0, "logit_bias": {"7": 2.0}},
        "return_logprob": True,
        "logprob_start_len": -1,
        "top_logprobs_num": 3,
        "return_text_in_logprobs": True,
    }


def test_body_asks_for_labels_of_every_prompt() -> None:
    body = WIRE.body([[1, 2], [3]], Ask("m", label_ids=(5, 6)), "ids")
    assert body["input_ids"] == [[1, 2], [3]]
    assert body["token_ids_logprob"] == [[5, 6], [5, 6]]
    assert "top_logprobs_num" not in body
    embeds = WIRE.body([[[0.5, 1.0]]], Ask("m"), "embeds")
    assert embeds["input_embeds"] == [[[0.5, 1.0]]]
    assert "return_logprob" not in embeds


def test_reads_top_tokens_and_usage() -> None:
    found = WIRE.read(reply("top"), TOP, 2)
    assert found.answers[0].text == " great"
    assert found.answers[0].top == (
        Token(2294, b" great", -0.5),
        Token(1695, b" good", -1.5),
        Token(3958, b" bad", -3.0),
    )
    assert (found.prompt_tokens, found.output_tokens, found.cached_tokens) == (11, 2, 7)


def test_reads_labels_in_the_order_asked() -> None:
    found = WIRE.read(reply("labels"), Ask("m", label_ids=(2294, 3958)), 1)
    assert found.answers[0].labels == (-0.5, -3.0)


def change(payload: Any, path: list[Any], value: Any) -> Any:
    changed = copy.deepcopy(payload)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([0], None),
        ([0, "text"], None),
        ([0, "index"], 1),
        ([0, "error"], {"message": "no"}),
        ([0, "meta_info"], None),
        ([0, "meta_info", "prompt_tokens"], "5"),
        ([0, "meta_info", "output_top_logprobs"], []),
        ([0, "meta_info", "output_top_logprobs"], None),
        ([0, "meta_info", "output_top_logprobs", 0], None),
        ([0, "meta_info", "output_top_logprobs", 0], [[-0.5, 1, None]]),
        ([0, "meta_info", "output_top_logprobs", 0, 0], [-0.5, 1]),
        ([0, "meta_info", "output_top_logprobs", 0, 0], [1, -0.5, None]),
        ([0, "meta_info", "output_top_logprobs", 0, 0, 0], None),
        ([0, "meta_info", "output_top_logprobs", 0, 0, 1], 2.0),
        ([0, "meta_info", "output_top_logprobs", 0, 0, 2], 7),
        ([0, "meta_info", "output_top_logprobs", 0, 0, 1], 1695),  # the same token twice
    ],
)
def test_refuses_everything_else(path: list[Any], value: Any) -> None:
    with pytest.raises(BrokenReply):
        WIRE.read(change(reply("top"), path, value), TOP, 2)


def test_a_wrong_number_of_answers_is_refused() -> None:
    with pytest.raises(BrokenReply, match="1 answers to 2 prompts"):
        WIRE.read(reply("top")[:1], TOP, 2)
    with pytest.raises(BrokenReply, match="2 answers to 1 prompts"):
        WIRE.read(reply("top"), TOP, 1)
    with pytest.raises(BrokenReply, match="carries an error"):
        WIRE.read({"error": {"message": "input_embeds is provided while …"}}, TOP, 1)
    with pytest.raises(BrokenReply, match="lack 1 of the 2"):
        WIRE.read(reply("labels"), Ask("m", label_ids=(2294, 7)), 1)
