import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from blackbox_delta.heads import NearestHead
from blackbox_delta.heads.nearest import Neighbourhood, Replies, divergences, votes
from blackbox_delta.types import Evidence


def tempered(masses: list[float]) -> np.ndarray:
    root = np.sqrt(masses)
    return root / root.sum()


def test_a_reply_is_completed_by_its_floor_and_its_remaining_mass() -> None:
    replies = Replies(
        np.array([[5, 9], [9, 7]]), np.log(np.array([[0.6, 0.3], [0.9, 0.06]], np.float32))
    )
    found = np.exp(replies.completed(np.array([5, 7, 9])))
    # Of .1 that remains token 7 gets its half, as that is less than .3/e; the rest the other half.
    np.testing.assert_allclose(found[0], tempered([0.6, 0.05, 0.3, 0.05]), rtol=1e-5)
    # Of .04 that remains token 5 gets its half, as that is less than .06/e.
    np.testing.assert_allclose(found[1], tempered([0.02, 0.06, 0.9, 0.02]), rtol=1e-5)


def test_a_token_outside_the_top_k_lies_below_the_floor() -> None:
    replies = Replies(np.array([[3, 4]]), np.log(np.array([[0.2, 0.01]], np.float32)))
    found = np.exp(replies.completed(np.array([3, 4, 8])))[0]
    below = 0.01 / np.e
    np.testing.assert_allclose(found, tempered([0.2, 0.01, below, 0.79 - below]), rtol=1e-5)


def test_the_mass_of_tokens_that_no_training_text_returned_is_kept() -> None:
    replies = Replies(np.array([[8, 3]]), np.log(np.array([[0.5, 0.3]], np.float32)))
    found = np.exp(replies.completed(np.array([3])))[0]
    np.testing.assert_allclose(found, tempered([0.3, 0.7]), rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_completed_replies_are_distributions(data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = data.draw(st.sampled_from([1e-7, 1.0, 3000.0]))
    ids = np.array([rng.choice(12, k, replace=False) for _ in range(n)])
    replies = Replies(ids, -np.sort(rng.exponential(spread, (n, k))).astype(np.float32))
    vocabulary = np.unique(rng.choice(12, data.draw(st.integers(1, 12))))
    found = replies.completed(vocabulary)
    assert found.shape == (n, len(vocabulary) + 1)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0)


def test_the_divergence_is_kullback_and_leiblers() -> None:
    rng = np.random.default_rng(0)
    new, stored = rng.dirichlet(np.ones(6), 4), rng.dirichlet(np.ones(6), 3)
    expected = rel_entr(stored[None], new[:, None]).sum(axis=2)
    np.testing.assert_allclose(divergences(np.log(new), np.log(stored)), expected, atol=1e-12)


def test_only_the_nearest_vote_and_the_nearer_count_more() -> None:
    away = np.array([[0.1, 0.4, 0.2, 0.9]])
    member = np.eye(3)[[0, 1, 1, 2]]
    found = np.exp(votes(away, member, np.ones(3), 3))[0] - 1 / 3
    np.testing.assert_allclose(found[0], np.exp(-2 * 0.1 / 0.4), rtol=1e-4)
    np.testing.assert_allclose(found[1], np.exp(-2 * 0.2 / 0.4) + np.exp(-2), rtol=1e-4)
    assert found[2] == pytest.approx(0.0)


def test_equally_near_replies_vote_alike_in_any_order() -> None:
    away = np.array([[0.3, 0.3, 0.3, 0.8]])
    found = votes(away, np.eye(4), np.ones(4), 1)[0]
    assert found[0] == found[1] == found[2] > found[3]


def test_leave_one_out_is_a_vote_of_the_others(make_evidence) -> None:
    evidence, labels = make_evidence(14, 3, 8)
    around = Neighbourhood.of(evidence, labels)
    found = around.held_out(4)
    for i in range(14):
        others = np.arange(14) != i
        counts = np.bincount(labels[others], minlength=3)
        weight = 13 / 3 / counts
        away = around.divergence[[i]][:, others]
        expected = votes(away, np.eye(3)[labels[others]], weight, 4)[0]
        np.testing.assert_allclose(found[i], expected, atol=1e-12)


def test_its_state_holds_what_was_returned_and_little_more(make_evidence) -> None:
    n, k = 40, 20
    state = NearestHead().fit(*make_evidence(n, 3, k), None).state()
    assert sum(array.nbytes for array in state.values()) < n * k * 8 + n * 8 + 200


def test_a_text_seen_before_gets_the_class_it_had(make_evidence) -> None:
    evidence, labels = make_evidence(30, 3, 20, signal=0.7)
    fitted = NearestHead().fit(evidence, labels, None)
    assert (fitted.log_proba(evidence).argmax(axis=1) == labels).mean() > 0.9


def test_without_top_tokens_the_label_words_are_compared() -> None:
    logprobs = np.log(np.array([[0.1, 0.3], [0.4, 0.1]], np.float32))
    replies = Replies.of(Evidence(logprobs, np.empty((2, 0), np.int64), np.empty((2, 0), "f4")))
    np.testing.assert_allclose(np.exp(replies.logprobs), [[0.25, 0.75], [0.8, 0.2]], rtol=1e-5)
