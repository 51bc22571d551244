from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.slices import consecutive


@given(st.lists(st.integers(0, 9)))
def test_they_cut_a_whole_into_its_parts(lengths: list[int]) -> None:
    whole = list(range(sum(lengths)))
    parts = [whole[part] for part in consecutive(lengths)]
    assert [len(part) for part in parts] == lengths
    assert [number for part in parts for number in part] == whole
