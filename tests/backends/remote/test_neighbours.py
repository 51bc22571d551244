"""The label words' neighbours, against looking at every pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blackbox_delta.backends.remote import neighbours as module
from blackbox_delta.backends.remote.neighbours import neighbours


@dataclass
class Table:
    matrix: NDArray[np.float32]
    most_at_once: int = 0

    @property
    def vocabulary_size(self) -> int:
        return len(self.matrix)

    @property
    def hidden_size(self) -> int:
        return self.matrix.shape[1]

    @property
    def std(self) -> float:
        return float(self.matrix.std())

    def rows(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self.most_at_once = max(self.most_at_once, len(token_ids))
        return self.matrix[list(token_ids)]

    def tokenize(self, text: str) -> list[int]:
        raise NotImplementedError

    def detokenize(self, token_ids: Sequence[int]) -> str:
        raise NotImplementedError


def random_table(seed: int, size: int = 30, hidden: int = 5) -> Table:
    rng = np.random.default_rng(seed)
    return Table((rng.standard_normal((size, hidden)) + 3.0).astype(np.float32))


def by_hand(table: Table, labels: Sequence[int], count: int) -> tuple[int, ...]:
    """Each label in turn names its next nearest token, one vector at a time."""
    vectors = [row.astype(float) for row in table.matrix]
    centre = sum(vectors) / len(vectors)

    def cosine(one: int, other: int) -> float:
        a, b = vectors[one] - centre, vectors[other] - centre
        return float(a @ b) / (math.hypot(*a) * math.hypot(*b))

    everyone = range(len(vectors))
    for to in labels:
        gaps = np.diff(sorted(cosine(to, it) for it in everyone))
        assume(gaps.min() > 1e-4)  # nearly equal ones may come in any order
    queues = [sorted(everyone, key=lambda it, to=to: -cosine(to, it)) for to in labels]
    found: list[int] = []
    for rank in everyone:
        for queue in queues:
            if queue[rank] not in labels and queue[rank] not in found:
                found.append(queue[rank])
    return tuple(found[:count])


@given(
    seed=st.integers(0, 10**6),
    labels=st.lists(st.integers(0, 29), min_size=1, max_size=3, unique=True),
    count=st.integers(0, 40),
)
@settings(deadline=None)
def test_they_are_the_nearest_ones_taken_in_turn(seed: int, labels: list[int], count: int) -> None:
    table = random_table(seed)
    found = neighbours(table, labels, count)
    assert found == by_hand(table, labels, count)
    assert not set(found) & set(labels)
    assert len(set(found)) == len(found) == min(count, 30 - len(labels))
    assert all(type(token) is int for token in found)


def test_a_large_table_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neighbours(random_table(1), [4, 8], 20)
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_CENTRE", 30)
    table = random_table(1)
    assert neighbours(table, [4, 8], 20) == whole
    monkeypatch.setattr(module, "_CENTRE", 7)
    neighbours(table := random_table(1), [4, 8], 20)
    assert table.most_at_once == 7


def test_equal_ones_come_in_the_order_of_their_ids_and_rows_of_zeros_do_no_harm() -> None:
    matrix = np.zeros((9, 3), np.float32)
    matrix[0], matrix[4] = (1, 0, 0), (0, 1, 0)
    assert neighbours(Table(matrix), [4], 8) == neighbours(Table(matrix.copy()), [4], 8)
    twins = np.tile(np.array([[1.0, 2.0], [-2.0, 1.0]], np.float32), (4, 1))
    assert neighbours(Table(twins), [2], 7) == (0, 4, 6, 1, 3, 5, 7)


def test_a_token_is_nearest_to_its_twin() -> None:
    table = random_table(3)
    table.matrix[25] = table.matrix[10]
    table.matrix[26] = table.matrix[20]
    assert neighbours(table, [10, 20], 2) == (25, 26)
