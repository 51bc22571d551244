"""The bytes of a tensor file, read by torch itself."""

from __future__ import annotations

import base64
import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from blackbox_delta.backends.remote.embeddings.precision import Precision, restored, rounded, stored
from blackbox_delta.backends.remote.embeddings.torch_file import embeds_field, torch_bytes

torch = pytest.importorskip("torch")

PRECISIONS: list[Precision] = ["float32", "bfloat16", "float16"]
ANY_FLOATS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(width=32, allow_nan=False),
)
# Halfway between two bfloat16, towards an even and an odd last bit; the largest of all; denormals.
EXTREMES = np.array([[0x3F808000, 0x3F818000, 0x7F7FFFFF, 1, 0x80000001, 0x477FF000]], np.uint32)


@pytest.mark.parametrize("precision", PRECISIONS)
@given(array=ANY_FLOATS)
@example(array=EXTREMES.view(np.float32))
@example(array=np.full((1, 3), np.nan, np.float32))
@example(array=np.array([[0xFFFFFFFF, 0x7F800001]], np.uint32).view(np.float32))
def test_torch_reads_what_it_would_have_made_of_the_array(
    precision: Precision, array: np.ndarray[Any, Any]
) -> None:
    file = io.BytesIO(torch_bytes(array, precision))

    read = torch.load(file, weights_only=True)

    expected = torch.from_numpy(array).to(getattr(torch, precision))
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    assert read.is_contiguous()
    assert not read.requires_grad
    # Bit for bit, so that the sign of a zero counts; of a NaN only that it is one.
    word = torch.int32 if precision == "float32" else torch.int16
    same = (read.view(word) == expected.view(word)) | (read.isnan() & expected.isnan())
    assert same.all()


def test_what_is_not_contiguous_is_sent_as_it_reads() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1]

    for precision in PRECISIONS:
        read = torch.load(io.BytesIO(torch_bytes(array, precision)), weights_only=True)
        assert read.float().numpy().tolist() == array.tolist()


def test_the_same_array_gives_the_same_bytes_and_another_a_sound_archive() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)

    once = torch_bytes(first, "bfloat16")
    other = torch_bytes(second, "bfloat16")
    again = torch_bytes(first.copy(), "bfloat16")

    assert once == again
    assert once != other
    for data in (once, other):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None  # every check sum holds
            assert "archive/data/0" in archive.namelist()


def test_the_field_is_the_file_in_base64() -> None:
    array = np.ones((2, 3), np.float32)

    field = embeds_field(array, "float32")

    assert base64.b64decode(field, validate=True) == torch_bytes(array, "float32")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_every_half_word_comes_back_as_itself(precision: Precision) -> None:
    words = np.arange(1 << 16, dtype="<u2")
    words = words if precision == "bfloat16" else words.view("<f2")

    numbers = restored(words, precision)

    finite = np.isfinite(numbers)
    assert np.array_equal(stored(numbers, precision)[finite], words[finite])


def test_a_scale_is_rounded_as_torch_rounds_it() -> None:
    for value in (640**0.5, 2304**0.5, 3.0):
        assert rounded(value, "bfloat16") == float(torch.tensor(value, dtype=torch.bfloat16))
        assert rounded(value, "float32") == float(torch.tensor(value, dtype=torch.float32))
