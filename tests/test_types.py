from __future__ import annotations

import numpy as np
import pytest

from blackbox_delta.backends.remote.wires.readings import nothing
from blackbox_delta.types import DeltaBatch, Evidence


def evidence(n: int, k: int, seed: int = 0) -> Evidence:
    """Random replies about n examples: three choices, k top tokens."""
    rng = np.random.default_rng(seed)
    return Evidence(
        rng.normal(size=(n, 3)).astype(np.float32),
        rng.integers(0, 99, (n, k)),
        rng.normal(size=(n, k)).astype(np.float32),
    )


@pytest.mark.parametrize("k", [0, 4])
@pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 5], [1, 1, 3]])
def test_evidence_in_pieces_is_the_evidence_joined(sizes: list[int], k: int) -> None:
    whole = evidence(5, k)
    ends = np.cumsum(sizes)
    parts = [whole.select(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    joined = Evidence.joined(parts)
    assert len(joined) == 5
    for name in ("label_logprobs", "top_ids", "top_logprobs"):
        array = getattr(joined, name)
        np.testing.assert_array_equal(array, getattr(whole, name))
        assert array.dtype == getattr(whole, name).dtype


def test_parts_keep_their_order() -> None:
    one, other = evidence(2, 1, seed=1), evidence(3, 1, seed=2)
    joined = Evidence.joined([other, one])
    np.testing.assert_array_equal(joined.select([3, 4]).top_ids, one.top_ids)
    np.testing.assert_array_equal(joined.select([0]).top_ids, other.top_ids[:1])


def test_parts_of_different_width_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="dimension"):
        Evidence.joined([evidence(2, 1), evidence(2, 4)])


def several(count: int, seed: int, kind: str = "lora", rank: int = 2) -> DeltaBatch:
    """Candidates of two kinds."""
    rng = np.random.default_rng(seed)
    beside = DeltaBatch("ia3", {"m.scale_in": rng.normal(size=(count, 3)).astype(np.float32)})
    own = {"m.lora_A": rng.normal(size=(count, rank, 3)).astype(np.float32)}
    return DeltaBatch(kind, own, (), (beside,))


def test_candidates_of_one_structure_are_joined_in_their_order() -> None:
    one, other = several(2, seed=1), several(3, seed=2)
    assert one.structure == other.structure
    joined = DeltaBatch.joined([other, one])
    assert len(joined) == 5
    digests = [joined.digest(place) for place in range(5)]
    assert digests == [*map(other.digest, range(3)), *map(one.digest, range(2))]


def test_structures_differ_in_kind_shape_words_and_parts() -> None:
    batch = several(2, seed=1)
    alone, beside = batch.parts
    others = [
        several(2, 1, kind="adapter"),
        several(2, 1, rank=3),
        alone,
        DeltaBatch(alone.kind, alone.tensors, (5,), (beside,)),
        DeltaBatch(beside.kind, beside.tensors, (), (alone,)),
    ]
    assert len({each.structure for each in [batch, *others]}) == 6


@pytest.mark.parametrize("c", [2, 3, 7, 20])
def test_what_names_no_label_is_told_from_what_does(c: int) -> None:
    """As servers' replies are read: each label has log 1/c where none could be."""
    nowhere = nothing(c, 4).label_logprobs
    # What is alike for another reason: all labels outside the top tokens have the same bound.
    bounds = np.full(c, -9.5, np.float32)
    nearly = nowhere.copy()
    nearly[-1] = np.nextafter(nearly[-1], np.float32(0))
    rows = np.stack([nowhere, bounds, nearly, nowhere])
    found = Evidence(rows, np.zeros((4, 0), np.int64), np.zeros((4, 0), np.float32))
    assert found.unanswered.tolist() == [True, False, False, True]
