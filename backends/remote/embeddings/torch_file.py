"""The bytes of a torch tensor file, written without torch.

Servers that take embeddings expect each sequence as ``torch.save`` writes a tensor: a zip archive
of a small pickle, which describes the tensor, and its raw data. Only the data and its check sum
differ between two sequences of one shape, so the archive around them is built once per shape.
Nothing is ever unpickled here.
"""

from __future__ import annotations

import base64
import functools
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

from blackbox_delta.backends.remote.embeddings.precision import Precision, stored
from blackbox_delta.types import FloatArray

_STORAGES: dict[Precision, tuple[str, int]] = {
    "float32": ("FloatStorage", 4),
    "bfloat16": ("BFloat16Storage", 2),
    "float16": ("HalfStorage", 2),
}
# Zip's own fixed positions: where a check sum stands in an entry and in the directory, and how
# long the two records are that end the archive, apart from names.
_CRC_IN_ENTRY, _CRC_IN_DIRECTORY = 14, 16
_DIRECTORY_RECORD, _END_RECORD = 46, 22
_DATA = "archive/data/0"


@dataclass(frozen=True)
class _Frame:
    """An archive around data of one shape; a check sum goes between ``before`` and ``named``."""

    before: bytes
    named: bytes
    directory: bytes
    end: bytes

    def around(self, data: memoryview) -> bytes:
        crc = struct.pack("<I", zlib.crc32(data))
        return b"".join((self.before, crc, self.named, data, self.directory, crc, self.end))


def torch_bytes(array: FloatArray, dtype: Precision) -> bytes:
    """What ``torch.save`` would write of a tensor of shape (tokens, hidden).

    The same array gives the same bytes. Numbers are rounded as torch rounds them.
    """
    words = stored(array, dtype)
    rows, columns = words.shape
    return _frame(rows, columns, dtype).around(words.reshape(-1).view("u1").data)


def embeds_field(array: FloatArray, dtype: Precision) -> str:
    """One value of the JSON field ``prompt_embeds``: the tensor file in base64."""
    return base64.b64encode(torch_bytes(array, dtype)).decode("ascii")


@functools.lru_cache(maxsize=1024)
def _frame(rows: int, columns: int, dtype: Precision) -> _Frame:
    size = rows * columns * _STORAGES[dtype][1]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", _description(rows, columns, dtype)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(_entry(f"archive/{name}"), content)
        archive.writestr(_entry(_DATA), bytes(size))
        start = archive.getinfo(_DATA).header_offset
        directory = archive.start_dir
    whole = file.getvalue()
    entry_crc = start + _CRC_IN_ENTRY
    # The data's directory record is the last one.
    last_record = len(whole) - _END_RECORD - len(_DATA) - _DIRECTORY_RECORD
    directory_crc = last_record + _CRC_IN_DIRECTORY
    return _Frame(
        whole[:entry_crc],
        whole[entry_crc + 4 : directory - size],
        whole[directory:directory_crc],
        whole[directory_crc + 4 :],
    )


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # its date is fixed: 1980-01-01


def _description(rows: int, columns: int, dtype: Precision) -> bytes:
    """A pickle (protocol 2) of the tensor, its data left to the archive's entry ``data/0``."""
    storage = _STORAGES[dtype][0].encode()
    return b"".join(
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage") + b"ctorch\n" + storage + b"\n" + _text("0") + _text("cpu"),
            _number(rows * columns) + b"tQ",  # a reference to the data
            _number(0),  # where the tensor begins in it
            _number(rows) + _number(columns) + b"\x86",  # shape
            _number(columns) + _number(1) + b"\x86",  # strides
            b"\x89",  # no gradient
            b"ccollections\nOrderedDict\n)R",  # no hooks
            b"tR.",
        )
    )


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
