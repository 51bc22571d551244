"""The input embeddings in a folder of safetensors files, read row by row through a memory map.

Only the file that holds them is opened, and of it only the rows that are asked for are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from blackbox_delta.backends.remote.embeddings.precision import Precision, restored
from blackbox_delta.errors import ModelError
from blackbox_delta.types import FloatArray, IntArray, Json

INDEX = "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # the safetensors library's own
_STORED: dict[str, tuple[Precision, str]] = {
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
}
# What models call their input embeddings, behind whatever names the parts around them have.
_NAMES = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embeddings.weight",
)


class SafetensorsMatrix:
    """The tensor called ``name`` in one safetensors file.

    Attributes:
        shape: (vocabulary, hidden).
        dtype: The precision it is stored in.

    Raises:
        ModelError: The file is damaged or truncated, or the tensor is not a matrix of floats.
    """

    def __init__(self, path: Path, name: str) -> None:
        header, data_start = read_header(path)
        entry: Any = header.get(name)
        try:
            dtype, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
            begin, end = map(int, entry["data_offsets"])
        except (TypeError, KeyError, ValueError):
            raise _damaged(path, f"its header does not describe {name}") from None
        if dtype not in _STORED or len(shape) != 2:
            raise ModelError(
                f"{name} in {path} is stored as {dtype} of shape {shape}; a matrix of "
                f"{', '.join(_STORED)} is needed. Use a folder whose embeddings are not quantised"
            )
        self.dtype, words = _STORED[dtype]
        size = math.prod(shape) * np.dtype(words).itemsize
        if min(shape) < 1 or begin < 0 or end - begin != size:
            raise _damaged(path, f"its header contradicts itself about {name}")
        if data_start + end > path.stat().st_size:
            raise _damaged(path, f"it ends before {name} does")
        self.shape: tuple[int, int] = (shape[0], shape[1])
        self._words = np.memmap(path, words, "r", data_start + begin, self.shape)

    def rows(self, ids: IntArray) -> FloatArray:
        """Rows of shape (len(ids), hidden) in float32."""
        return restored(np.asarray(self._words[ids]), self.dtype)


def input_embeddings(folder: Path) -> SafetensorsMatrix:
    """The input embeddings of the model in ``folder``.

    Raises:
        ModelError: There are none, several, or the files are damaged.
    """
    if (index := folder / INDEX).is_file():
        files = _weight_map(index)
        name = find_name(files, index)
        return SafetensorsMatrix(folder / files[name], name)
    path = _only_file(folder)
    header, _ = read_header(path)
    return SafetensorsMatrix(path, find_name(header, path))


def read_header(path: Path) -> tuple[Json, int]:
    """A safetensors file's header, and where its data begins.

    Raises:
        ModelError: The file is missing, damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_HEADER_LIMIT, path.stat().st_size - 8):
                raise _damaged(path, "its header is longer than the file or than any header may be")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror}; download the file that is missing"
        ) from None
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header, 8 + length


def find_name(names: Iterable[str], where: Path) -> str:
    """Which of a model's tensors holds the input embeddings.

    Raises:
        ModelError: None, or several that could be it.
    """
    names = [name for name in names if name != "__metadata__"]
    found = [
        name
        for name in names
        # Layers that predict further tokens carry copies of their own.
        if any(f".{name}".endswith(f".{known}") for known in _NAMES)
        and not any(part in {"layers", "mtp"} for part in name.split("."))
    ]
    if len(found) == 1:
        return found[0]
    what = "several tensors" if found else "no tensor"
    shown = sorted(found or [name for name in names if "emb" in name.lower()] or names)[:8]
    raise ModelError(
        f"{what} in {where} could be the input embeddings; seen: {', '.join(shown) or 'none'}. "
        f"Known names end in {', '.join(_NAMES)}; use a folder with one of these"
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        files: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # A name with a folder in it could lead anywhere.
        if all(Path(file).name == file for file in files.values()):
            return dict(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise _damaged(index, "it does not name the file of each tensor")


def _only_file(folder: Path) -> Path:
    if (usual := folder / "model.safetensors").is_file():
        return usual
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(
            f"{folder} holds {len(found)} safetensors files and no {INDEX}; download the model's "
            "safetensors weights (the index and the file with the embeddings are enough)"
        )
    return found[0]


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is damaged: {reason}. Download it again")
