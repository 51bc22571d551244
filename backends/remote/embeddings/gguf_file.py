"""What is needed of a GGUF file: its metadata, and the rows of its embedding table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.backends.remote.embeddings.precision import Precision
from blackbox_delta.errors import MissingExtraError, ModelError, UnsupportedError
from blackbox_delta.types import FloatArray, IntArray

_EMBEDDINGS = "token_embd.weight"
_PLAIN: dict[str, Precision] = {"F16": "float16", "BF16": "bfloat16"}


class GgufFile:
    """An open GGUF file; its tensors stay on the disk.

    Raises:
        ModelError: The file is missing, damaged or truncated.
        MissingExtraError: The package ``gguf`` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = _reader_class()
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {path}")
        try:
            self._reader = reader(path)
        except Exception as error:  # the reader of a broken file raises anything
            raise self.damaged(str(error) or type(error).__name__) from None

    def value(self, key: str, default: Any = None) -> Any:
        """The metadata called ``key``."""
        field = self._reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except Exception:  # of a broken file
            raise self.damaged(f"{key} cannot be read") from None

    def damaged(self, reason: str) -> ModelError:
        """The error that says so."""
        return ModelError(
            f"the GGUF file {self.path} is damaged or truncated ({reason}). Download it again"
        )

    def input_embeddings(self) -> GgufMatrix:
        """The embedding table."""
        return GgufMatrix(self, self._reader.tensors)


class GgufMatrix:
    """A GGUF file's embedding table, dequantised row by row.

    Attributes:
        shape: (vocabulary, hidden).
        dtype: The precision it is stored in; ``"float32"`` where it is quantised.

    Raises:
        ModelError: The file has no embedding table.
        UnsupportedError: It is quantised in a way that the package ``gguf`` cannot undo.
    """

    def __init__(self, file: GgufFile, tensors: Any) -> None:
        found = [tensor for tensor in tensors if tensor.name == _EMBEDDINGS]
        if not found or len(found[0].shape) != 2:
            raise ModelError(
                f"{file.path} has no matrix called {_EMBEDDINGS}; of a model in several files, "
                "name the first"
            )
        self._data, self._type = found[0].data, found[0].tensor_type
        # GGUF names the fastest dimension first.
        hidden, vocabulary = map(int, found[0].shape)
        self.shape: tuple[int, int] = (vocabulary, hidden)
        self.dtype: Precision = _PLAIN.get(self._type.name, "float32")
        try:
            first = self.rows(np.array([0]))
        except NotImplementedError:
            raise UnsupportedError(
                f"the embeddings in {file.path} are quantised as {self._type.name}, which the "
                "package 'gguf' cannot read; use a folder with safetensors files"
            ) from None
        except (ValueError, IndexError):
            raise file.damaged(f"{_EMBEDDINGS} has no rows") from None
        if first.shape != (1, hidden):
            raise file.damaged(f"{_EMBEDDINGS} contradicts itself")

    def rows(self, ids: IntArray) -> FloatArray:
        """Rows of shape (len(ids), hidden) in float32."""
        from gguf.quants import dequantize

        if not len(ids):  # which not every format can decode
            return np.empty((0, self.shape[1]), np.float32)
        rows: FloatArray = dequantize(self._data[ids], self._type).astype(np.float32, copy=False)
        return rows


def _reader_class() -> Any:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        purpose = "reading the embeddings of a GGUF file"
        raise MissingExtraError("gguf", "embeddings", purpose) from None

    class Reader(GGUFReader):
        """Takes a slice for every token; on a plain array that is five times as fast."""

        @property  # type: ignore[override]
        def data(self) -> NDArray[np.uint8]:
            return self._bytes

        @data.setter
        def data(self, mapped: NDArray[np.uint8]) -> None:
            self._bytes = np.asarray(mapped)

    return Reader
