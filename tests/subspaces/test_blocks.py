"""A subspace in blocks: against its blocks one by one, and how numbers are divided."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta import subspaces
from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import BlockSubspace, make_subspace, subspace_from_config
from blackbox_delta.subspaces.blocks import divide

GROUPS = (300, 100, 500)


def blocks(dimension: int = 18, groups: tuple[int, ...] = GROUPS, scale: float = 0.25) -> Any:
    return make_subspace("blocks", dimension, sum(groups), 3, scale, groups)


def test_each_block_is_the_subspace_of_its_own_seed() -> None:
    whole = blocks()
    assert whole.parts == (6, 3, 9)
    z = np.random.default_rng(0).standard_normal((4, 18))
    origin = np.random.default_rng(1).standard_normal(900).astype(np.float32)
    seeds = np.random.PCG64([3, 6]).random_raw(3).tolist()
    parts, starts = np.split(z, [6, 9], axis=1), np.split(origin, [300, 400])
    own = map(make_subspace, ["gaussian"] * 3, whole.parts, GROUPS, seeds, [0.25] * 3)
    moved = [each.project(*where) for each, *where in zip(own, parts, starts, strict=True)]
    assert whole.project(z, origin).tobytes() == np.concatenate(moved, axis=1).tobytes()


def test_a_part_of_z_moves_its_own_group_alone() -> None:
    origin = np.ones(900, np.float32)
    z = np.repeat(np.eye(3), (6, 3, 9), axis=1)
    moved = blocks().project(z, origin) != origin
    ends = np.split(moved, [300, 400], axis=1)
    assert [[bool(part.any()) for part in row] for row in zip(*ends, strict=True)] == (
        np.eye(3, dtype=bool).tolist()
    )


def test_an_entry_of_theta_has_the_deviation_asked_for_in_every_block() -> None:
    subspace = blocks(60, (8000, 1000, 4000))
    z = np.random.default_rng(0).standard_normal((300, 60))
    theta = subspace.project(z, np.zeros(13_000, np.float32))
    for part in np.split(theta, [8000, 9000], axis=1):
        assert part.std() == pytest.approx(0.25, rel=0.06)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), within=st.sampled_from(["gaussian", "sparse"]))
def test_every_batching_and_order_gives_the_same_bits(data: st.DataObject, within: str) -> None:
    subspace = replace(blocks(), within=within)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    z = rng.standard_normal((6, 18)) * 10.0 ** rng.integers(-6, 3, size=(6, 1))
    z[0, :6] = 0  # a block that stays while others move
    origin = rng.standard_normal(900).astype(np.float32)
    whole = subspace.project(z, origin)
    order = data.draw(st.permutations(range(6)))
    parts = [subspace.project(z[[row]], origin) for row in order]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


@given(
    groups=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    data=st.data(),
)
def test_shares_follow_the_lengths(groups: list[int], data: st.DataObject) -> None:
    dimension = data.draw(st.integers(len(groups), sum(groups)))
    shares = divide(dimension, groups)
    assert sum(shares) == dimension
    spare = [group - 1 for group in groups]
    for share, group, free in zip(shares, groups, spare, strict=True):
        assert 1 <= share <= group
        fair = (dimension - len(groups)) * free / max(sum(spare), 1)
        assert abs(share - 1 - fair) < 1


def test_ties_go_to_the_earlier_group() -> None:
    assert divide(8, (10, 10, 10)) == (3, 3, 2)
    assert divide(3, (1, 1, 1)) == (1, 1, 1)


def test_large_blocks_are_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = 6 * 300 + 3 * 100 + 9 * 500
    monkeypatch.setattr(subspaces, "MOST_DENSE", 2 * entries)
    assert blocks().within == "gaussian"
    monkeypatch.setattr(subspaces, "MOST_DENSE", 2 * entries - 1)
    assert blocks().within == "sparse"


@pytest.mark.parametrize("within", ["gaussian", "sparse"])
def test_config_through_json_rebuilds_it(within: str) -> None:
    subspace = replace(blocks(), within=within)
    again = subspace_from_config(json.loads(json.dumps(subspace.config())))
    assert again == subspace
    z, origin = np.ones((1, 18)), np.ones(900, np.float32)
    assert again.project(z, origin).tobytes() == subspace.project(z, origin).tobytes()


def test_one_group_is_one_block() -> None:
    assert make_subspace("blocks", 5, 40, 0, 1.0).parts == (5,)
    assert make_subspace("gaussian", 5, 40, 0, 1.0, (20, 20)).parts == (5,)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: blocks(2), "dimension of 2 cannot be divided among 3 groups of 900"),
        (lambda: blocks(901), "at most as many as it has"),
        (lambda: replace(blocks(), within="fastfood"), "no blocks of kind 'fastfood'"),
        (lambda: replace(blocks(), shares=(6, 3, 8)), "do not add up: 3 of 17 numbers"),
        (lambda: replace(blocks(), groups=(300, 600)), "for 2 groups of 900"),
        (lambda: replace(blocks(), seed=-1), "negative"),
        (lambda: subspace_from_config({"kind": "blocks", "dimension": 3}), "incomplete"),
    ],
)
def test_what_makes_no_sense_is_refused(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        what()


def test_its_kind_is_the_name_it_is_chosen_by() -> None:
    assert BlockSubspace.kind in subspaces.SUBSPACES
