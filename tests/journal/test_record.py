from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.journal import Record
from blackbox_delta.journal.file import VERSION
from blackbox_delta.journal.record import COLUMNS
from blackbox_delta.types import Usage

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(FINITE, max_size=4),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), FINITE), max_size=4),
    st.lists(st.integers(0, 2**63 - 1), min_size=7, max_size=7),
    st.floats(0, 1e6),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
    st.booleans(),
)
def test_a_record_comes_back_as_it_was(
    labels: list[float],
    top: list[tuple[int, float]],
    counts: list[int],
    seconds: float,
    purpose: str,
    cached: bool,
) -> None:
    record = Record(
        np.array(labels, dtype=np.float32),
        np.array([identifier for identifier, _ in top], dtype=np.int64),
        np.array([value for _, value in top], dtype=np.float32),
        Usage(*counts[:3], seconds, *counts[3:]),
        purpose,
        cached,
    )
    row = record.to_row(b"k" * 32)
    back = Record.from_row(row)
    assert back.to_row(b"k" * 32) == row
    assert (back.usage, back.purpose, back.cached) == (record.usage, purpose, cached)
    for name in ("label_logprobs", "top_ids", "top_logprobs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(record, name))
    changed: list[tuple[object, ...]] = [(b"K" + b"k" * 31, *row[1:])]
    for column in range(2, len(row)):
        other = row[column] + ("x" if column == 2 else 1 if row[column] < 2**62 else -1)
        changed.append((*row[:column], other, *row[column + 1 :]))
    for broken in changed:
        with pytest.raises(ValueError, match="checksum"):
            Record.from_row(broken)


def test_every_cost_has_a_column_and_a_change_there_is_a_new_version() -> None:
    assert (VERSION, COLUMNS) == (
        2,
        (
            "key",
            "reply",
            "purpose",
            "cached",
            "queries",
            "tokens",
            "computed_tokens",
            "seconds",
            "output_tokens",
            "lost",
            "bounded",
            "unparsed",
        ),
    )
