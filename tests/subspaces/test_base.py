"""Any rows of θ by themselves, in every subspace, against the whole of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.subspaces import LearnedSubspace, Subspace, make_subspace
from blackbox_delta.subspaces.learned import orthonormal_basis

D, SIZE = 12, 900
GROUPS = (300, 1, 499, 100)
SHAPES = ((20, 15), (1,), (499,), (4, 5, 5))
LEARNED = ("learned", "learned+gaussian", "learned+sparse")
ALL = ("gaussian", "uniform", "fastfood", "sparse", "blocks", "low-rank", *LEARNED)


@cache
def made(name: str) -> Subspace:
    if name not in LEARNED:
        return make_subspace(name, D, SIZE, 5, 0.3, GROUPS, SHAPES)
    known = D if name == "learned" else 3
    directions = np.random.default_rng(1).standard_normal((known, SIZE))
    basis = orthonormal_basis([(str(number), each) for number, each in enumerate(directions)])
    return LearnedSubspace.spanned(D, basis, 7, 0.3, most_dense=0 if "sparse" in name else 2**26)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(ends=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted), seed=st.integers(0))
def test_rows_are_those_of_the_whole(name: str, ends: list[int], seed: int) -> None:
    subspace, rng = made(name), np.random.default_rng(seed)
    z = rng.standard_normal((3, D)) * 10.0 ** rng.integers(-4, 2, size=(3, 1))
    z[1] = 0
    origin = rng.standard_normal(SIZE).astype(np.float32)
    rows = slice(*ends)

    part = subspace.project(z, origin, rows)

    assert part.dtype == np.float32
    assert part.tobytes() == subspace.project(z, origin)[:, rows].tobytes()
    assert subspace.project(z[1:2], origin, rows).tobytes() == part[1:2].tobytes()


@pytest.mark.parametrize("name", ALL)
def test_theta_around_zero_is_made_in_parts(name: str) -> None:
    subspace = made(name)
    z = np.random.default_rng(0).standard_normal((4, D))
    whole = subspace.project(z, np.zeros(SIZE, np.float32))

    theta = subspace.theta(z)

    assert theta.made().tobytes() == whole.tobytes()
    inner = theta.within(slice(100, 800)).within(slice(5, 650))
    assert inner.made().tobytes() == whole[:, 105:750].tobytes()
    assert inner.select([3, 0]).made().tobytes() == whole[[3, 0], 105:750].tobytes()


def test_what_is_made_of_something_else_has_another_digest() -> None:
    z = np.random.default_rng(0).standard_normal((2, D))
    theta = made("sparse").theta(z)
    others = [
        theta.digest(1),
        theta.within(slice(0, SIZE - 1)).digest(0),
        theta.within(slice(1, SIZE)).digest(0),
        made("fastfood").theta(z).digest(0),
        make_subspace("sparse", D, SIZE, 6, 0.3).theta(z).digest(0),
        make_subspace("sparse", D, SIZE, 5, 0.4).theta(z).digest(0),
        made("learned").theta(z).digest(0),
        made("learned+gaussian").theta(z).digest(0),
    ]
    assert len({theta.digest(0), *others}) == 9
    # What is below the subspace's steps changes no number of θ.
    assert theta.digest(0) == made("sparse").theta(theta.z + 2.0**-20).digest(0)


def test_z_that_does_not_fit_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"z of shape \(λ, 12\)"):
        made("sparse").theta(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="not finite"):
        made("sparse").theta(np.full((1, D), np.nan))
