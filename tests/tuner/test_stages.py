from __future__ import annotations

import numpy as np
import pytest

from blackbox_delta.deltas import BitFit, Composition, LoRA
from blackbox_delta.geometry import Module
from blackbox_delta.problem.frame import Frame
from blackbox_delta.subspaces import BlockSubspace, DenseSubspace
from blackbox_delta.tuner.stages import stages_of

MODULES = (Module("layers.0.q", 4, 4, True, 1.0, 1.0),)
LORA, BITFIT = LoRA(MODULES, rank=1), BitFit(MODULES)


def frame() -> Frame:
    delta = Composition([LORA, BITFIT])
    subspace = BlockSubspace.with_shares((5, 3), (LORA.size, BITFIT.size), 0, 1.0)
    return Frame(delta, subspace, (5, 3))


def test_without_stages_there_is_one_and_it_is_everything() -> None:
    subspace = DenseSubspace(5, LORA.size, 0, 1.0)
    [stage] = stages_of(Frame(LORA, subspace))
    z = np.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(stage.whole(z), z)
    assert (stage.length, stage.parts) == (5, subspace.parts)
    assert stages_of(None) == []


def test_a_stage_moves_its_own_numbers_and_leaves_the_others() -> None:
    first, second = stages_of(frame())
    assert (first.length, second.length) == (5, 3)
    assert (first.parts, second.parts) == ((5,), (3,))
    best = np.arange(8.0)
    later = second.beginning_at(best)
    whole = later.whole(np.ones((2, 3)))
    np.testing.assert_array_equal(whole, [[0, 1, 2, 3, 4, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(later.whole(np.zeros(3)), [0, 1, 2, 3, 4, 0, 0, 0])
    assert second.beginning_at(None) == second


@pytest.mark.parametrize("number", [0, 1])
def test_numbers_of_one_stage_move_one_delta(number: int) -> None:
    stage = stages_of(frame())[number]
    batch = stage.frame.candidates(stage.whole(np.ones((1, stage.length))))
    still = stage.frame.candidates(np.zeros((1, 8)))
    moved = [
        not all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
        for a, b in zip(batch.parts, still.parts, strict=True)
    ]
    assert moved == [number == 0, number == 1]
