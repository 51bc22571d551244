from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.deltas import DeepPrompt, SoftPrompt, delta_from_config
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry
from blackbox_delta.testing import check_delta

SPREADS = [0.5, 2.0, 4.0]
TABLE = FakeBackend().embedding_table
NO_LAYERS, DEEP = Geometry(()), Geometry((), layer_spread=SPREADS)


def prompt() -> SoftPrompt:
    rng = np.random.default_rng(0)
    return SoftPrompt.build({"a": 2, "b": 3}, TABLE, tokens=1, init=None, rng=rng)


def made(spreads: Any = SPREADS) -> DeepPrompt:
    return DeepPrompt(prompt(), spreads)


def test_the_contract() -> None:
    check_delta(made())


def test_at_zero_it_is_the_soft_prompt_s_own_start() -> None:
    delta, own = made(), prompt()
    batch = delta.unpack(np.zeros((1, delta.size), np.float32))
    start = own.unpack(own.origin[None])
    assert batch.slots == start.slots == {"a": 2, "b": 3}
    for name, value in batch.tensors.items():
        np.testing.assert_array_equal(value, start.tensors.get(name, np.zeros_like(value)))


def test_every_layer_has_tensors_of_its_own_scale() -> None:
    delta, own = made(), prompt()
    assert delta.groups == (own.size,) * 3
    assert delta.shapes == own.shapes * 3
    rng = np.random.default_rng(0)
    tensors = delta.unpack(rng.standard_normal((2000, delta.size)).astype(np.float32)).tensors
    assert set(tensors) == {"a", "b", "a@1", "a@2", "b@1", "b@2"}
    share = 3**-0.5
    for layer in (1, 2):
        spread = tensors[f"b@{layer}"].std()
        assert spread == pytest.approx(share * SPREADS[layer], rel=0.05)
    start = own.unpack(own.origin[None]).tensors["a"]
    assert (tensors["a"] - start).std() == pytest.approx(share * own.scale, rel=0.05)


def test_config_through_json_rebuilds_the_same_bits() -> None:
    delta = made()
    again = delta_from_config(json.loads(json.dumps(delta.config())), TABLE, DEEP)
    theta = np.random.default_rng(0).standard_normal((2, delta.size)).astype(np.float32)
    assert again.unpack(theta).digest(1) == delta.unpack(theta).digest(1)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: DeepPrompt.build(prompt(), NO_LAYERS), "takes no deep prompt"),
        (lambda: made().unpack(np.zeros((1, 3), np.float32)), "Expected θ of shape"),
        (lambda: delta_from_config(made().config(), TABLE, None), "takes no deep prompts"),
        (
            lambda: delta_from_config(made().config(), TABLE, NO_LAYERS),
            "for 3 layers; this .* has 0",
        ),
        (lambda: delta_from_config({"kind": "deep-prompt"}, TABLE, DEEP), "incomplete"),
    ],
)
def test_what_makes_no_sense_is_refused(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        what()
