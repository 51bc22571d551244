"""Embedding tables and tokenizers from GGUF files, against gguf's writer and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.remote.embeddings.table import TableFile, open_table
from blackbox_delta.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend

gguf = pytest.importorskip("gguf")

Write = Callable[..., Path]
HIDDEN = 64
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(["<s>", "</s>", "<mask>", "<tool>", "<|im_start|>", "  ", "\n\n", "12"]),
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module")
def write(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a GGUF file with a table and the tokenizer of a tiny model; None leaves a key out."""
    state = json.loads(tiny("gpt2").tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    control = {token["content"] for token in state["added_tokens"]}
    # A plain token that is matched whole, and a control token in letters that spell no byte.
    tokens = [*vocabulary, "<tool>", "<｜odd｜>"]
    kinds = [3 if token in control else 1 for token in vocabulary] + [4, 3]
    usual: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": 8, "llama.attention.head_count": 1, "llama.vocab_size": 362,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HIDDEN,
    }  # fmt: skip

    def make(
        kind: str = "F32",
        architecture: str = "llama",
        tensor: str = "token_embd.weight",
        **keys: Any,
    ) -> Path:
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        changed = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
        for key, value in (usual | changed).items():
            add(writer, key, value)
        qtype = gguf.GGMLQuantizationType[kind]
        packed = gguf.quants.quantize(matrix(), qtype)
        writer.add_tensor(tensor, packed, raw_dtype=qtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_string(key, value)


def matrix() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0, 0.1, (362, HIDDEN)).astype(np.float32)


# ------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("kind", "precision", "error"),
    [
        ("F32", "float32", 0.0),
        ("F16", "float16", 2e-4),
        ("BF16", "bfloat16", 2e-3),
        ("Q8_0", "float32", 3e-3),
        ("Q4_1", "float32", 3e-2),
    ],
)
def test_rows_of_every_kind(kind: str, precision: str, error: float, write: Write) -> None:
    table = open_table(str(write(kind)))

    assert (table.vocabulary_size, table.hidden_size) == (362, HIDDEN)
    assert table.dtype == precision
    ids = [361, 0, 5, 5]
    rows = table.rows(ids)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, matrix()[ids], atol=error)
    # Row by row it is what it is at once.
    np.testing.assert_array_equal(table.rows([5]), rows[2:3])
    assert table.rows([]).shape == (0, HIDDEN)
    assert table.std == pytest.approx(matrix().std(), rel=0.02)


def test_gemma_is_scaled(write: Write) -> None:
    rows = open_table(str(write(architecture="gemma2"))).rows(range(10))

    np.testing.assert_allclose(rows, matrix()[:10] * 8, rtol=1e-6)


def test_gemma_with_embeddings_per_layer_is_refused(write: Write) -> None:
    with pytest.raises(UnsupportedError, match="gemma3n"):
        open_table(str(write(architecture="gemma3n")))


# ----------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"pre": "default"},
        {"pre": None},
        {"pre": "smollm", "add_bos_token": False},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True, "padding_token_id": 0},
    ],
    ids=str,
)
def test_a_tokenizer_is_what_transformers_makes_of_the_file(
    keys: dict[str, Any], write: Write
) -> None:
    import transformers

    path = write(**keys)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = open_table(str(path)).tokenizer

    @given(TEXTS)
    @example("")
    @example("the film <tool>12  3</s> great")
    @settings(max_examples=30, deadline=None)
    def check(text: str) -> None:
        for special in (True, False):
            options = {"add_special_tokens": special, "return_offsets_mapping": True}
            got, expected = ours(text, **options), theirs(text, **options)
            assert got["input_ids"] == expected["input_ids"]
            assert got["offset_mapping"] == expected["offset_mapping"]
        ids = ours(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)

    check()


@pytest.mark.parametrize("keys", [{"pre": "llama-bpe"}, {"pre": "qwen2"}, {"model": "llama"}])
def test_other_tokenizers_are_taken_from_beside_the_file_or_refused(
    keys: dict[str, Any], write: Write, tiny: Callable[[str], Any]
) -> None:
    path = write(**keys)
    with pytest.raises(UnsupportedError, match=r"put the model's tokenizer\.json and .* next to"):
        open_table(str(path))

    tiny("llama").tokenizer.save_pretrained(path.parent)

    text = "It was great"
    expected = tiny("llama").tokenizer(text)["input_ids"]
    assert open_table(str(path)).tokenizer(text)["input_ids"] == expected


# --------------------------------------------------------------------------------- errors


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such GGUF file"):
        open_table(str(tmp_path / "missing.gguf"))


def test_a_file_without_embeddings(write: Write) -> None:
    with pytest.raises(ModelError, match=r"no matrix called token_embd\.weight"):
        open_table(str(write(tensor="output.weight")))


def test_a_format_that_cannot_be_decoded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("Q8_0")
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q8_0)

    with pytest.raises(UnsupportedError, match="quantised as Q8_0.*safetensors"):
        open_table(str(path))


@pytest.mark.parametrize(
    "keys",
    [
        {"tokens": None},
        {"merges": ["Ġt"]},
        {"merges": ["never seen"]},
        {"merges": ["a b c"]},
        {"bos_token_id": 100_000},
    ],
    ids=str,
)
def test_a_damaged_tokenizer(keys: dict[str, Any], write: Write) -> None:
    with pytest.raises(ModelError, match="is damaged or truncated.*its tokenizer"):
        open_table(str(write(**keys)))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_truncated_file(
    data: st.DataObject, write: Write, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated.gguf"
    content = write("Q8_0").read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 40))])

    with pytest.raises(ModelError):
        open_table(str(path))


# ------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def real(smollm2: LocalBackend) -> TableFile:
    return open_table(smollm2.name)


@pytest.mark.model
def test_a_real_table(real: TableFile, smollm2: LocalBackend) -> None:
    expected = smollm2.embedding_table

    assert (real.vocabulary_size, real.hidden_size) == (49152, 576)
    spaced = range(0, 49152, 97)
    np.testing.assert_array_equal(real.rows(spaced), expected.rows(spaced))
    assert real.std == pytest.approx(expected.std)


@pytest.mark.model
@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_a_real_tokenizer(real: TableFile, smollm2: LocalBackend, text: str) -> None:
    """The local backend's comes from transformers' conversion of the same file."""
    theirs = smollm2._loaded.tokenizer

    for special in (True, False):
        options = {"add_special_tokens": special, "return_offsets_mapping": True}
        got, expected = real.tokenizer(text, **options), theirs(text, **options)
        assert got["input_ids"] == expected["input_ids"]
        assert got["offset_mapping"] == expected["offset_mapping"]
    assert real.tokenize(text) == smollm2.embedding_table.tokenize(text)
