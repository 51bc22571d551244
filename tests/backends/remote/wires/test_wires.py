"""No reply, however broken, becomes a wrong number: every wire on arbitrary and mutated JSON."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires import open_wire
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.backends.remote.wires.tokenize import read_tokens, tokenize_body
from blackbox_delta.backends.remote.wires.wire import Ask, Wire, WireReply

REPLIES = Path(__file__).with_name("replies")


def wire(preset: str, name: str) -> Wire:
    return open_wire(next(offer for offer in PRESETS[preset].offers if offer.wire == name))


TOP, LABELS, TEXT = Ask("m", top_k=3), Ask("m", label_ids=(1109, 3309)), Ask("m", max_tokens=8)
CASES: list[tuple[str, Wire, Ask, int]] = [
    ("vllm-completions-top", wire("vllm", "completions"), TOP, 2),
    ("vllm-completions-labels", wire("vllm", "completions"), LABELS, 2),
    ("vllm-completions-text", wire("vllm", "completions"), TEXT, 2),
    ("vllm-chat-top", wire("vllm", "chat"), TOP, 1),
    ("vllm-chat-labels", wire("vllm", "chat"), LABELS, 1),
    ("vllm-completions-top-as-text", wire("generic", "completions"), TOP, 2),
    ("llama.cpp-completions-top", wire("llama.cpp", "completions"), TOP, 1),
    ("llama.cpp-completion-top", wire("llama.cpp", "llama.cpp"), TOP, 1),
    ("together-chat-top.documented", wire("together", "chat"), TOP, 1),
    ("sglang-generate-top.documented", wire("sglang", "sglang"), TOP, 2),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([-1, -1.5, -9999.0, 0, 1, 10**400, math.nan, "token_id:7", "\ud800"])
    | st.text(max_size=5)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def load(name: str) -> Any:
    return json.loads((REPLIES / f"{name}.json").read_text())


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def numbers(value: Any) -> set[float]:
    found = set()
    for container, key in places([value]):
        item = container[key]
        if isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < 1e300:
            found.add(float(item))
    return found


def part(payload: Any, at: int) -> Any:
    """What the reply says about one prompt."""
    if isinstance(payload, list):
        return payload[at]
    if "choices" in payload:
        return next(choice for choice in payload["choices"] if choice["index"] == at)
    return payload


def check(found: WireReply, payload: Any, ask: Ask, count: int) -> None:
    """Whatever was read is well-formed and stands in its own part of the reply."""
    assert len(found.answers) == count
    for at, answer in enumerate(found.answers):
        there = numbers(part(payload, at))
        values = [token.logprob for token in answer.top] if answer.labels is None else answer.labels
        assert len(values) == len(ask.label_ids or ()) or 0 < len(values) <= ask.top_k
        assert all(-1e300 < value <= 0 for value in values)
        assert all(value in there or value in (0.0, -100.0) for value in values)
        if answer.labels is None:
            assert list(values) == sorted(values, reverse=True)
            assert len({(token.id, token.text) for token in answer.top}) == len(answer.top)
    usage = (found.prompt_tokens, found.output_tokens, found.cached_tokens)
    assert all(value is None or value >= 0 for value in usage)


@pytest.mark.parametrize(("name", "wire", "ask", "count"), CASES, ids=[case[0] for case in CASES])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_mutated_reply_is_read_right_or_refused(
    name: str, wire: Wire, ask: Ask, count: int, data: st.DataObject
) -> None:
    root = [load(name)]
    check(wire.read(root[0], ask, count), root[0], ask, count)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(root))))
        match data.draw(st.sampled_from(["replace", "remove", "double"])):
            case "remove" if isinstance(container, dict):
                del container[key]
            case "double" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                container[key] = data.draw(json_values)
    try:
        found = wire.read(root[0], ask, count)
    except BrokenReply:
        return
    check(found, root[0], ask, count)


@pytest.mark.parametrize(("name", "wire", "ask", "count"), CASES, ids=[case[0] for case in CASES])
@settings(max_examples=40, deadline=None)
@given(payload=json_values)
def test_arbitrary_json_is_refused(
    name: str, wire: Wire, ask: Ask, count: int, payload: Any
) -> None:
    with pytest.raises(BrokenReply):
        wire.read(payload, ask, count)


def test_tokenizers_fields_differ() -> None:
    vllm, llama = PRESETS["vllm"].tokenizer, PRESETS["llama.cpp"].tokenizer
    assert vllm is not None
    assert llama is not None
    assert tokenize_body(vllm, "m", " great", special=False) == {
        "model": "m",
        "prompt": " great",
        "add_special_tokens": False,
    }
    assert tokenize_body(llama, "m", "It", special=True)["content"] == "It"


@pytest.mark.parametrize("payload", [None, {}, {"tokens": None}, {"tokens": [1.0]}, [1]])
def test_token_ids_are_whole_numbers(payload: Any) -> None:
    assert read_tokens({"count": 1, "tokens": [1109]}) == [1109]
    with pytest.raises(BrokenReply):
        read_tokens(payload)
