"""Members and how their answers are made one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member, pool
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Template
from blackbox_delta.types import Evidence, Example, FittedHead, Vector

SHAPE = (4, 3)


def log_probas(seed: int, members: int = 3) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [np.log(rng.dirichlet(np.ones(SHAPE[1]), SHAPE[0])) for _ in range(members)]


# ------------------------------------------------------------------------- pooling


@given(
    scores=arrays(float, (3, *SHAPE), elements=st.floats(-300, 0)),
    weights=arrays(float, 3, elements=st.floats(0, 10)).filter(lambda each: each.sum() > 0.01),
    sharpness=st.floats(0.01, 20),
)
def test_a_pool_is_the_normalised_product_of_powers(
    scores: Vector, weights: Vector, sharpness: float
) -> None:
    pooled = pool(list(scores), list(weights), sharpness)
    powers = sum(w * each for w, each in zip(weights / weights.sum(), scores, strict=True))
    np.testing.assert_allclose(np.exp(pooled), softmax(sharpness * powers, axis=1), atol=1e-9)
    np.testing.assert_allclose(np.exp(pooled).sum(axis=1), 1.0, atol=1e-9)


def test_by_hand() -> None:
    """Two members of equal say: √(0.8·0.2) against √(0.2·0.8), and 4² against 1 when sharpened."""
    one, other = np.log([[0.8, 0.2]]), np.log([[0.2, 0.8]])
    np.testing.assert_allclose(np.exp(pool([one, other], [1, 1])), [[0.5, 0.5]])
    np.testing.assert_allclose(np.exp(pool([one, one], [1, 1], 2.0)), [[16 / 17, 1 / 17]])
    # Three parts of the one to one of the other: (4^¾ : 1)·(1 : 4^¼) is 2 to 1.
    np.testing.assert_allclose(np.exp(pool([one, other], [3, 1])), [[2 / 3, 1 / 3]])


@pytest.mark.parametrize("weight", [1e-6, 1.0, 40.0])
def test_one_member_is_itself(weight: float) -> None:
    (alone,) = log_probas(0, 1)
    np.testing.assert_allclose(pool([alone], [weight]), alone, atol=1e-12)


def test_only_the_ratio_of_weights_counts_and_none_is_no_say() -> None:
    members = log_probas(1)
    expected = pool(members, [1, 2, 3])
    np.testing.assert_allclose(pool(members, [10, 20, 30]), expected, atol=1e-12)
    np.testing.assert_allclose(pool(members[::-1], [3, 2, 1]), expected, atol=1e-12)
    np.testing.assert_allclose(pool(members, [1, 2, 0]), pool(members[:2], [1, 2]), atol=1e-12)


def test_sharpness_leaves_the_order_and_moves_the_certainty() -> None:
    members = log_probas(2)
    flat, plain, sharp = (pool(members, [1, 1, 1], by) for by in (0.2, 1.0, 5.0))
    assert np.array_equal(flat.argsort(axis=1), sharp.argsort(axis=1))
    assert (flat.max(axis=1) < plain.max(axis=1)).all()
    assert (plain.max(axis=1) < sharp.max(axis=1)).all()


# ------------------------------------------------------------------------- one member


@pytest.fixture(scope="module")
def problem() -> Problem:
    examples = tuple(
        Example(f"a {word} movie", label=label)
        for label, words in (("good", ("great", "fun")), ("bad", ("awful", "dull")))
        for word in words
    )
    split = FewShotSplit(examples, (), (), 2, 0)
    return build_problem(FakeBackend(), split, Settings(dimension=4, soft_tokens=2))


@pytest.fixture(scope="module")
def head() -> FittedHead:
    evidence = Evidence(np.zeros((2, 2), np.float32), np.zeros((2, 0), int), np.zeros((2, 0)))
    return make_head("calibrated").fit(evidence, np.array([0, 1]), None)


def test_members_share_replies_only_where_reader_and_delta_are_the_same(
    problem: Problem, head: FittedHead
) -> None:
    assert problem.frame is not None
    zero, one = np.zeros(4), np.ones(4)
    bare = Member("bare", problem.reader, head)
    tuned = Member("tuned", problem.reader, head, 1.0, problem.frame, one)
    assert bare.source == replace(bare, name="again", weight=0.3).source
    assert tuned.source == replace(tuned, name="again", z=one.copy()).source
    other_words = replace(problem.reader, template=Template.parse("{text}{soft} Well, {label}"))
    sources = {
        bare.source,
        tuned.source,
        replace(tuned, z=zero).source,
        replace(tuned, reader=other_words).source,
    }
    assert len(sources) == 4


def test_a_member_asks_with_its_own_choices_and_delta(problem: Problem, head: FittedHead) -> None:
    assert problem.frame is not None
    z = np.arange(4) / 10
    member = Member("tuned", problem.reader, head, 1.0, problem.frame, z)
    prompts = problem.reader.prompts([Example("a nice movie")])
    request = member.request(prompts, 7, "test")
    assert (list(request.prompts), request.top_k, request.purpose) == (prompts, 7, "test")
    assert request.choices == (" bad", " good")
    assert request.delta is not None
    assert request.candidates == 1
    assert request.delta.digest(0) == problem.frame.candidates(z[None]).digest(0)
    assert replace(member, z=None).request(prompts, 7, "test").delta is None
    assert replace(member, frame=None).delta is None
