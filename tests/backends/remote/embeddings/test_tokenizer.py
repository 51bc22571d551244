"""Tokenizers from their files alone, against transformers' AutoTokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote.embeddings.tokenizer import FileTokenizer, read_tokenizer
from blackbox_delta.errors import MissingExtraError, ModelError
from blackbox_delta.types import AnswerSlot, Prompt, SoftSlot, Words

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend

# Texts with special tokens spelled out, runs of spaces and digits among anything else.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<new>", "  ", "\n\n", "12"]),
        st.sampled_from([" It was", " great", "user\n"]),
    ),
    max_size=6,
).map("".join)


def assert_equal_calls(ours: FileTokenizer, theirs: Any, text: str) -> None:
    """Every call that prompts are encoded with, and back."""
    for special in (True, False):
        options = {"add_special_tokens": special, "return_offsets_mapping": True, "verbose": False}
        got, expected = ours(text, **options), theirs(text, **options)
        assert got["input_ids"] == expected["input_ids"]
        assert got["offset_mapping"] == expected["offset_mapping"]
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.is_fast
    assert theirs.is_fast
    ids = ours(text)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def pair(
    tiny: Callable[[str], Any],
    marked_spaces: Callable[[str], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[FileTokenizer, Any]]:
    """The same saved tokenizer read by us and by transformers, its configuration changed."""
    import transformers

    made: dict[str, tuple[FileTokenizer, Any]] = {}

    def make(name: str, **config: Any) -> tuple[FileTokenizer, Any]:
        key = f"{name}{config}"
        if key not in made:
            folder = tmp_path_factory.mktemp("tokenizer")
            marked = name in {"always", "first", "never"}
            (marked_spaces(name) if marked else tiny(name).tokenizer).save_pretrained(folder)
            path = folder / "tokenizer_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
            made[key] = (read_tokenizer(folder), theirs)
        return made[key]

    return make


NEW = {"content": "<new>", "lstrip": True, "rstrip": False, "normalized": False, "special": False}
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt2", {}),
    ("gpt2", {"add_bos_token": True, "add_eos_token": False}),
    ("llama", {"add_bos_token": False}),
    ("llama", {"add_bos_token": True, "add_eos_token": True}),
    ("gpt2", {"split_special_tokens": True}),
    ("gpt2", {"additional_special_tokens": ["<|im_start|>"]}),
    ("gpt2", {"extra_special_tokens": {"start": "<|im_start|>"}}),
    ("gpt2", {"image_token": "<new>"}),
    ("gpt2", {"added_tokens_decoder": {"360": NEW}, "pad_token": "<|im_end|>"}),
    ("always", {}),
    ("first", {"add_bos_token": True}),
    ("never", {}),
]


@pytest.mark.parametrize(("name", "config"), CONFIGS, ids=[f"{n} {c}" for n, c in CONFIGS])
@given(text=TEXTS)
@example(text="")
@settings(max_examples=40, deadline=None)
def test_ids_offsets_and_text_are_those_of_transformers(
    name: str, config: dict[str, Any], pair: Callable[..., Any], text: str
) -> None:
    ours, theirs = pair(name, **config)

    assert_equal_calls(ours, theirs, text)
    assert ours.get_vocab() == theirs.get_vocab()


@given(st.text(max_size=200))
@settings(max_examples=40, deadline=None)
def test_prompts_are_cut_as_with_transformers(pair: Callable[..., Any], text: str) -> None:
    prompt = Prompt(
        (Words("Review: "), Words(text, True), SoftSlot("soft"), Words(" It was"), AnswerSlot())
    )

    ours, theirs = (
        PromptEncoder(tokenizer, "causal", 30).encode(prompt, {"soft": 3}, 1)
        for tokenizer in pair("llama")
    )

    assert ours == theirs


def test_truncation_and_padding_of_the_file_are_left_out(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny("gpt2").tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    path.write_text(json.dumps(content))

    ours = read_tokenizer(tmp_path)

    long = "the film was great and the plot terrible"
    assert ours.decode(ours(long)["input_ids"]) == long
    assert ours("a")["input_ids"] == tiny("gpt2").tokenizer("a")["input_ids"]


# ----------------------------------------------------------------------------- errors


def test_no_tokenizer_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json in .*; download it"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(ModelError, match=r"cannot read .*tokenizer\.json: .*Download it again"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"bos_token": {"text": "<s>"}}', "cannot read"),
        (b'{"added_tokens_decoder": {"x": "<s>"}}', "cannot read"),
    ],
)
def test_a_damaged_configuration(
    config: bytes, message: str, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny("gpt2").tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(config)

    with pytest.raises(ModelError, match=message):
        read_tokenizer(tmp_path)


def test_the_package_is_named_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(MissingExtraError, match=r"'tokenizers'.*blackbox-delta\[embeddings\]"):
        read_tokenizer(tmp_path)


# ------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def real(smollm2: LocalBackend) -> tuple[FileTokenizer, Any]:
    import transformers

    from blackbox_delta.backends.local import loading

    folder = loading.model_folder(smollm2.name)
    return read_tokenizer(Path(folder)), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.model
@given(text=TEXTS)
@example(text="<|im_start|>user\nhi<|im_end|>")
@settings(max_examples=200, deadline=None)
def test_a_real_tokenizer(real: tuple[FileTokenizer, Any], text: str) -> None:
    assert_equal_calls(*real, text)
