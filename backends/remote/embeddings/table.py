"""A model's embedding table and tokenizer from its files alone; the model is never loaded."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from blackbox_delta.backends.packaged import packaged_file
from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote.embeddings.gguf_file import GgufFile
from blackbox_delta.backends.remote.embeddings.gguf_tokenizer import tokenizer_from_gguf
from blackbox_delta.backends.remote.embeddings.precision import Precision, rounded
from blackbox_delta.backends.remote.embeddings.safetensors_matrix import input_embeddings
from blackbox_delta.backends.remote.embeddings.tokenizer import (
    FILE,
    FileTokenizer,
    read_json,
    read_tokenizer,
)
from blackbox_delta.errors import ModelError, UnsupportedError
from blackbox_delta.types import FloatArray, IntArray

# Servers multiply the embeddings of a text by the root of the hidden size, but take embeddings
# that are sent to them as they are: what is sent must be multiplied here.
_SCALED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
# These add to the embeddings what only token ids give, or scale them by a rule of their own.
_OTHERWISE = ("gemma3n", "gemma4", "minicpm", "hrm_text")


class Matrix(Protocol):
    """Rows of numbers in a file.

    Attributes:
        shape: (vocabulary, hidden).
        dtype: The precision they are stored in.
    """

    shape: tuple[int, int]
    dtype: Precision

    def rows(self, ids: IntArray) -> FloatArray:
        """Rows of shape (len(ids), hidden) in float32."""
        ...


class TableFile:
    """The input embeddings of a model that runs elsewhere.

    Args:
        matrix: The stored rows.
        tokenizer: The model's tokenizer, for a :class:`PromptEncoder` too.
        scale: What the model multiplies the stored rows by.
    """

    def __init__(self, matrix: Matrix, tokenizer: FileTokenizer, scale: float = 1.0) -> None:
        self.tokenizer = tokenizer
        self._matrix = matrix
        self._scale = np.float32(scale)
        self._encoder = PromptEncoder(tokenizer, "causal", 1 << 30)

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        return self._matrix.shape[0]

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        return self._matrix.shape[1]

    @property
    def dtype(self) -> Precision:
        """The precision the table is stored in; ``"float32"`` where it is quantised."""
        return self._matrix.dtype

    @functools.cached_property
    def std(self) -> float:
        """Standard deviation over the entries of up to 8,192 evenly spaced rows."""
        return float(self.rows(self._spaced(8192)).std(dtype=np.float64))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 that tells models apart: shape, precision, some rows, and the tokenizer."""
        state = hashlib.sha256(f"{self._matrix.shape}{self.dtype}".encode())
        state.update(self.rows(self._spaced(64)).astype("<f4").tobytes())
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        state.update(json.dumps([vocabulary, self.tokenizer("")["input_ids"]]).encode())
        return state.hexdigest()

    @property
    def opening(self) -> list[int]:
        """Tokens that the tokenizer puts before every text; often none."""
        return self._encoder.opening

    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), hidden).

        Raises:
            ModelError: The table has no such row, so that it belongs to another tokenizer.
        """
        ids = np.array(token_ids, dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= self.vocabulary_size)]
        if len(outside):
            raise ModelError(
                f"token {outside[0]} has no embedding: the table holds {self.vocabulary_size} "
                "rows. The tokenizer beside it belongs to another model"
            )
        rows = self._matrix.rows(ids)
        return rows if self._scale == 1 else rows * self._scale

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens."""
        return self._encoder.continuation(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of tokens inside a sequence; special tokens stand for none."""
        return self._encoder.text(token_ids)

    def _spaced(self, count: int) -> list[int]:
        spaced = np.linspace(0, self.vocabulary_size - 1, min(count, self.vocabulary_size))
        return [int(row) for row in spaced]


def open_table(source: str) -> TableFile:
    """The embedding table and tokenizer of a model's files.

    Args:
        source: A folder with config.json, tokenizer.json and safetensors weights (of several
            files, the index and the one with the embeddings are enough), a GGUF file, or
            ``pkg:NAME`` for the GGUF file inside an installed distribution.

    Raises:
        ModelError: Something is missing or damaged.
        UnsupportedError: Embeddings of this model cannot be sent, or its tokenizer not be rebuilt.
        MissingExtraError: A package that reads such files is not installed.
    """
    if source.startswith("pkg:"):
        return _from_gguf(packaged_file(source.removeprefix("pkg:")))
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return _from_gguf(path)
    if path.is_dir():
        return _from_folder(path)
    raise ModelError(
        f"cannot read embeddings from {source!r}: no such folder. Give a folder with the model's "
        "config.json, tokenizer.json and safetensors weights, a .gguf file, or pkg:NAME"
    )


def _from_folder(folder: Path) -> TableFile:
    config = read_json(folder / "config.json")
    matrix = input_embeddings(folder)
    scale = _scale(str(config.get("model_type")), matrix)
    return TableFile(matrix, read_tokenizer(folder), scale)


def _from_gguf(path: Path) -> TableFile:
    file = GgufFile(path)
    matrix = file.input_embeddings()
    scale = _scale(str(file.value("general.architecture")), matrix)
    beside = (path.parent / FILE).is_file()
    tokenizer = read_tokenizer(path.parent) if beside else tokenizer_from_gguf(file)
    return TableFile(matrix, tokenizer, scale)


def _scale(model_type: str, matrix: Matrix) -> float:
    """What the model multiplies its stored embeddings by, in the precision they are stored in."""
    if model_type.startswith(_OTHERWISE):
        raise UnsupportedError(
            f"embeddings of a {model_type} model cannot be sent to a server: more than the table "
            "makes them. Tune it through text instead"
        )
    if model_type not in _SCALED:
        return 1.0
    return rounded(math.sqrt(matrix.shape[1]), matrix.dtype)
