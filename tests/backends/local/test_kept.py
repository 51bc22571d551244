"""What is kept stays within its limit, and what was used last stays longest."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.local.kept import Kept


@dataclass(frozen=True)
class Block:
    nbytes: int


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), max_size=40))
def test_it_stays_within_its_limit(asked: list[tuple[int, int]]) -> None:
    kept, made = Kept(10), []

    for key in asked:
        size = key[1]

        def make(size: int = size) -> Block:
            made.append(size)
            return Block(size)

        assert kept.get(key, make).nbytes == size
        assert kept.nbytes <= 10
        times = len(made)
        kept.get(key, make)
        assert len(made) - times == (size > 10)  # what is too large is made each time
    kept.clear()
    assert (len(kept), kept.nbytes) == (0, 0)


def test_what_was_used_last_stays_longest() -> None:
    kept = Kept(3)
    for key in "abc":
        kept.get(key, lambda: Block(1))
    kept.get("a", lambda: pytest.fail("it is there"))

    kept.get("d", lambda: Block(1))

    for key in "acd":
        kept.get(key, lambda: pytest.fail("it is there"))
    made: list[str] = []
    kept.get("b", lambda: made.append("b") or Block(1))
    assert made == ["b"]
