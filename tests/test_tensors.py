"""Tensors that are made when they are read, against those that are in memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.deltas import Composition, LoRA, Selective
from blackbox_delta.geometry import Module
from blackbox_delta.subspaces import SparseSubspace
from blackbox_delta.types import DeltaBatch

D = 6
MODULES = tuple(Module(f"layers.{n}.up", 5, 7, True, 1.0, 2.0) for n in range(3))


def candidates(count: int = 4, seed: int = 0, delta: Any = None) -> tuple[DeltaBatch, DeltaBatch]:
    """The same ones, made when they are read and in memory."""
    delta = delta or Selective(MODULES)
    subspace = SparseSubspace(D, delta.size, seed, 0.3)
    z = np.random.default_rng(seed).standard_normal((count, D))
    return delta.deferred(subspace.theta(z)), delta.unpack(subspace.project(z, delta.origin))


def check_equal(deferred: DeltaBatch, whole: DeltaBatch) -> None:
    assert len(deferred) == len(whole)
    assert deferred.structure == whole.structure
    assert deferred.shapes == whole.shapes == {k: v.shape for k, v in whole.tensors.items()}
    assert deferred.tensors.keys() == whole.tensors.keys()
    for name, value in whole.tensors.items():
        assert deferred.tensors[name].tobytes() == value.tobytes()
    for candidate in range(len(whole)):
        assert deferred.checksum(candidate) == whole.checksum(candidate) == whole.digest(candidate)


def test_they_are_the_same_tensors() -> None:
    check_equal(*candidates())


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    order=st.lists(st.integers(0, 8), min_size=1, max_size=6),
)
def test_joined_and_selected_in_any_order(sizes: list[int], order: list[int]) -> None:
    """Candidates of several searches, each with a subspace and a start of its own."""
    pairs = [
        candidates(size, seed, LoRA(MODULES, rank=2, seed=seed)) for seed, size in enumerate(sizes)
    ]
    deferred, whole = (DeltaBatch.joined(each) for each in zip(*pairs, strict=True))
    check_equal(deferred, whole)
    rows = [row % sum(sizes) for row in order]
    check_equal(deferred.select(rows), whole.select(rows))
    # One of them in memory, the others not.
    mixed = DeltaBatch.joined([pairs[0][1], *(each for each, _ in pairs[1:])])
    check_equal(mixed, whole)


def test_a_digest_makes_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    deferred, _ = candidates()
    monkeypatch.setattr(SparseSubspace, "_moved", None)
    assert len({deferred.digest(row) for row in range(4)}) == 4
    assert len(deferred.select([1, 1])) == 2
    assert deferred.structure


def test_a_digest_is_the_candidates_own() -> None:
    deferred, _ = candidates()
    other, _ = candidates(seed=1)
    chosen = DeltaBatch.joined([other, deferred]).select([6, 1, 6])
    assert chosen.digest(0) == chosen.digest(2) == deferred.digest(2)
    assert chosen.digest(1) == other.digest(1)


def test_other_tensors_have_another_digest() -> None:
    """Of the same θ: other names, shapes, scales, starts, kinds and parts beside."""
    wide = tuple(replace(each, inputs=7, outputs=5) for each in MODULES)
    loud = tuple(replace(each, spread=3.0) for each in MODULES)
    renamed = tuple(replace(each, name=f"{each.name}s") for each in MODULES)
    given = [Selective(each) for each in (MODULES, wide, loud, renamed)]
    given += [LoRA(MODULES, rank=2, seed=seed) for seed in (0, 1)]
    digests = {candidates(1, 0, delta)[0].digest(0) for delta in given}
    alone, _ = candidates(1)
    digests |= {
        replace(alone, kind="last-layer").digest(0),
        replace(alone, beside=(alone,)).digest(0),
    }
    assert len(digests) == 8


def test_only_the_large_parts_of_a_composition_are_made_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lora, selective = LoRA(MODULES, rank=1), Selective(MODULES)
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", lora.size)
    deferred, whole = candidates(delta=Composition([lora, selective]))
    assert [type(part.tensors) is dict for part in deferred.parts] == [True, False]
    for some, all_of_it in zip(deferred.parts, whole.parts, strict=True):
        check_equal(some, all_of_it)


def test_memory_does_not_grow_with_the_delta() -> None:
    """16 matrices of 1 MB for each of 4 candidates, of which one is there at a time."""
    modules = [Module(f"layers.{n}.up", 512, 512, True, 1.0, 2.0) for n in range(16)]
    tracemalloc.start()
    delta = Selective(modules)
    deferred = delta.deferred(SparseSubspace(D, delta.size, 0, 0.3).theta(np.ones((4, D))))
    for candidate in range(4):
        deferred.checksum(candidate)
    for name in deferred.tensors:
        assert deferred.tensors[name].shape == (4, 512, 512)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
