import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.deltas import SoftPrompt, delta_from_config
from blackbox_delta.errors import ConfigError


class Table:
    """A small embedding table whose tokens are the letters of the alphabet."""

    def __init__(self, hidden=4, vocabulary=26):
        rng = np.random.default_rng(0)
        self.table = rng.standard_normal((vocabulary, hidden)).astype(np.float32)
        self.vocabulary_size, self.hidden_size = vocabulary, hidden
        self.std = float(self.table.std())

    def rows(self, token_ids):
        return self.table[list(token_ids)]

    def tokenize(self, text):
        return [ord(letter) - ord("a") for letter in text if letter.isalpha()]


def build(slots, *, tokens=3, init="random", seed=0, table=None):
    rng = np.random.default_rng(seed)
    return SoftPrompt.build(slots, table or Table(), tokens=tokens, init=init, rng=rng)


def test_every_slot_may_start_from_something_of_its_own():
    prompt = build({"a": None, "b": None, "c": 2}, init="text:ab | zero | text:xyz")
    assert prompt.slots == {"a": 2, "b": 3, "c": 2}
    table = Table().table
    tensors = prompt.unpack(prompt.origin[None]).tensors
    np.testing.assert_array_equal(tensors["a"][0], table[[0, 1]])
    np.testing.assert_array_equal(tensors["b"][0], np.zeros((3, 4)))
    np.testing.assert_array_equal(tensors["c"][0], table[[23, 24]])
    with pytest.raises(ConfigError, match="for 2 soft slots, but the template has 3"):
        build({"a": None, "b": None, "c": 2}, init="zero|text:xyz")
    # One slot takes its text as it stands.
    assert build({"a": None}, init="text:ab | cd").slots == {"a": 4}


def test_size_scale_and_slots():
    prompt = build({"soft": None, "soft_2": 2})
    assert prompt.kind == "soft-prompt"
    assert prompt.slots == {"soft": 3, "soft_2": 2}
    assert prompt.size == 5 * 4
    assert prompt.groups == (12, 8)
    assert prompt.shapes == ((3, 4), (2, 4))
    assert prompt.origin.shape == (20,)
    assert prompt.origin.dtype == np.float32
    assert prompt.scale == Table().std


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    candidates=st.integers(1, 6),
    hidden=st.integers(1, 5),
)
def test_unpack_takes_theta_apart_in_order(lengths, candidates, hidden):
    names = [f"soft_{index}" for index in range(len(lengths))]
    prompt = build(dict(zip(names, lengths, strict=True)), table=Table(hidden))
    theta = np.arange(candidates * prompt.size, dtype=np.float32).reshape(candidates, -1)
    batch = prompt.unpack(theta)
    assert batch.kind == "soft-prompt"
    assert len(batch) == candidates
    assert list(batch.tensors) == names
    for name, length in zip(names, lengths, strict=True):
        assert batch.tensors[name].shape == (candidates, length, hidden)
        assert batch.tensors[name].dtype == np.float32
    joined = [batch.tensors[name].reshape(candidates, -1) for name in names]
    np.testing.assert_array_equal(np.concatenate(joined, axis=1), theta)


@pytest.mark.parametrize("init", ["random", None])
def test_random_starts_from_rows_of_the_table(init):
    table = Table()
    prompt = build({"soft": 40}, init=init)
    rows = prompt.unpack(prompt.origin[None]).tensors["soft"][0]
    found = [int(np.flatnonzero((table.table == row).all(axis=1))[0]) for row in rows]
    assert len(set(found)) > 10
    assert not np.array_equal(prompt.origin, build({"soft": 40}, init=init, seed=1).origin)
    np.testing.assert_array_equal(prompt.origin, build({"soft": 40}, init=init).origin)


def test_zero_starts_from_zero():
    np.testing.assert_array_equal(build({"soft": 2}, init="zero").origin, np.zeros(8))


@pytest.mark.parametrize(
    ("slots", "letters"),
    [
        ({"soft": None}, "abc"),  # its length becomes the text's, not tokens=2
        ({"soft": 2}, "ab"),
        ({"soft": 7}, "abcabca"),
        ({"soft": None, "soft_2": 4}, "abcabca"),
    ],
)
def test_text_starts_from_its_tokens_cut_or_repeated(slots, letters):
    table = Table()
    prompt = build(slots, tokens=2, init="text:a b c")
    expected = table.rows(table.tokenize(letters))
    np.testing.assert_array_equal(prompt.origin, expected.reshape(-1))


@pytest.mark.parametrize("init", ["random", "zero", "text:hello there"])
def test_config_through_json_rebuilds_it_exactly(init):
    prompt = build({"soft": None, "soft_2": 6}, init=init)
    text = json.dumps(prompt.config(), sort_keys=True)  # the order of slots must survive this
    again = delta_from_config(json.loads(text), Table())
    assert again.origin.tobytes() == prompt.origin.tobytes()
    assert again.scale == prompt.scale
    assert again.config() == prompt.config()
    theta = np.random.default_rng(1).standard_normal((3, prompt.size)).astype(np.float32)
    for candidate in range(3):
        assert again.unpack(theta).digest(candidate) == prompt.unpack(theta).digest(candidate)


def test_the_origin_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        build({"soft": 1}).origin[0] = 1.0


@pytest.mark.parametrize(
    ("slots", "settings", "message"),
    [
        ({}, {}, r"no \{soft\} slot"),
        ({"soft": None}, {"tokens": 0}, "at least 1 token, not 0"),
        ({"soft": 0}, {}, "'soft' needs at least 1 token"),
        ({"soft": -2}, {"init": "text:ab"}, "'soft' needs at least 1 token"),
        ({"soft": 2}, {"init": "ones"}, "'random', 'zero' or 'text:WORDS'"),
        ({"soft": 2}, {"init": "text:"}, "no tokens"),
        ({"soft": None}, {"init": "text: 12"}, "no tokens"),
    ],
)
def test_senseless_settings_are_refused(slots, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(slots, **settings)


def test_theta_of_another_size_is_refused():
    prompt = build({"soft": 2})
    for theta in (np.zeros(8, dtype=np.float32), np.zeros((1, 9), dtype=np.float32)):
        with pytest.raises(ConfigError, match="shape"):
            prompt.unpack(theta)


def test_configs_that_do_not_fit_are_refused():
    config = build({"soft": 2}).config()
    slot = config["slots"][0]
    for wrong, message in (
        ({**config, "kind": "lora"}, "takes no loras"),
        ({**config, "kind": "hat"}, "'hat'.*Known: soft-prompt"),
        ({}, "Known: soft-prompt"),
        ({"kind": "soft-prompt"}, "incomplete"),
        ({**config, "hidden": 5}, "length 5"),
        ({**config, "slots": []}, "no {soft} slot"),
        ({**config, "slots": [slot, slot]}, "same name"),
        ({**config, "slots": [{**slot, "length": 3}]}, "3 tokens but starts from 2"),
        ({**config, "slots": [{**slot, "start": [1, 26]}]}, "vocabulary of 26"),
    ):
        with pytest.raises(ConfigError, match=message):
            delta_from_config(wrong, Table())
