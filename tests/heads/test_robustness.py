"""Training sets as users bring them, through every head. Warnings are errors here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from blackbox_delta.heads import HEADS, discriminant, make_head, nearest, weighing
from blackbox_delta.types import Evidence, Head, IntArray

NAMES = list(HEADS)
WEIGHED = ["discriminant", "anchored", "prototypes", "nearest"]
LEARNED = ["logistic", "ridge", *WEIGHED]


def reference(head: Head, c: int, k: int) -> Evidence:
    n = max(len(head.references([f"word {i}" for i in range(c)])), 1)
    label_logprobs = np.full((n, c), -2.0, np.float32)
    return Evidence(label_logprobs, np.tile(np.arange(k), (n, 1)), -np.ones((n, k), np.float32))


def assert_probabilities(head: Head, evidence: Evidence, labels: IntArray) -> None:
    shape = evidence.label_logprobs.shape
    texts = reference(head, shape[1], evidence.top_ids.shape[1])
    for log_p in (
        head.held_out(evidence, labels, texts),
        head.fit(evidence, labels, texts).log_proba(evidence),
    ):
        assert log_p.shape == shape
        assert np.isfinite(log_p).all()
        np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1.0, atol=1e-9)


@st.composite
def training_sets(draw: st.DrawFn) -> tuple[Evidence, IntArray]:
    """Classes of any sizes, repeated texts with any label, constant columns, any scale."""
    c, k = draw(st.sampled_from([2, 3, 5, 77])), draw(st.integers(0, 6))
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 9]), min_size=1, max_size=c))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if len(labels) < 2:
        labels = np.array([0, c - 1])
    n = len(labels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([1e-7, 1.0, 300.0]))
    words = -rng.exponential(spread, (n, c))
    ids = np.array([rng.choice(40, k, replace=False) for _ in range(n)]).reshape(n, k)
    top = -np.sort(rng.exponential(spread, (n, k)), axis=1)
    if draw(st.booleans()):
        words[:, 0] = -1.0
    if draw(st.booleans()):
        ids[:] = ids[0]
    evidence = Evidence(words.astype(np.float32), ids, top.astype(np.float32))
    if draw(st.booleans()):
        evidence = evidence.select(rng.integers(0, draw(st.integers(1, n)), n))
    return evidence, rng.permutation(labels)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "logistic"])
@settings(max_examples=40, deadline=None)
@given(training=training_sets())
def test_any_training_set_gives_probabilities(name: str, training) -> None:
    assert_probabilities(make_head(name), *training)


@settings(max_examples=5, deadline=None)
@given(training=training_sets())
def test_any_training_set_gives_probabilities_with_logistic(training) -> None:
    assert_probabilities(make_head("logistic"), *training)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "logistic"])
@pytest.mark.parametrize("each", [1, 2])
def test_77_classes(name: str, each: int, make_evidence) -> None:
    assert_probabilities(make_head(name), *make_evidence(77 * each, 77, 10))


@pytest.mark.parametrize("name", WEIGHED)
def test_a_class_whose_only_example_is_held_out_gets_what_was_not_seen(
    name: str, make_evidence
) -> None:
    evidence, labels = make_evidence(20, 2, 10)
    labels = np.where(np.arange(20) == 7, 2, labels)
    evidence = Evidence(
        np.hstack([evidence.label_logprobs, evidence.label_logprobs[:, :1]]),
        evidence.top_ids,
        evidence.top_logprobs,
    )
    held = np.exp(make_head(name).held_out(evidence, labels, None))
    assert held[7, 2] == pytest.approx(1 / (19 + 3))
    fitted = make_head(name).fit(evidence.select(labels < 2), labels[labels < 2], None)
    np.testing.assert_allclose(np.exp(fitted.log_proba(evidence))[:, 2], 1 / (19 + 3))


@pytest.mark.parametrize("name", LEARNED)
def test_contradictory_labels_leave_it_undecided(name: str, make_evidence) -> None:
    evidence, _ = make_evidence(12, 2, 10)
    twice = evidence.select(np.repeat(np.arange(12), 2))
    held = np.exp(make_head(name).held_out(twice, np.arange(24) % 2, None))
    assert np.abs(held - 0.5).max() < 0.2


@pytest.mark.parametrize("name", LEARNED)
def test_duplicates_keep_the_signal(name: str, make_evidence) -> None:
    evidence, labels = make_evidence(24, 3, 20)
    rows = np.tile(np.arange(24), 2)
    unseen, truth = make_evidence(90, 3, 20, seed=1)
    fitted = make_head(name).fit(evidence.select(rows), labels[rows], None)
    assert (fitted.log_proba(unseen).argmax(axis=1) == truth).mean() > 0.8


@pytest.mark.parametrize("name", WEIGHED)
def test_a_small_class_is_found_among_large_ones(name: str, make_evidence) -> None:
    evidence, labels = make_evidence(120, 3, 20, signal=0.8)
    kept = np.flatnonzero((labels < 2) | (np.arange(120) < 15))  # 40, 40 and 5
    unseen, truth = make_evidence(300, 3, 20, seed=1, signal=0.8)
    fitted = make_head(name).fit(evidence.select(kept), labels[kept], None)
    found = fitted.log_proba(unseen).argmax(axis=1)
    assert all((found[truth == k] == k).mean() > 0.5 for k in range(3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", [5, 1000])
def test_more_top_tokens_asked_for_than_the_reply_holds(name, asked, make_evidence) -> None:
    head = make_head(name, max_top_k=asked)
    assert_probabilities(head, *make_evidence(12, 3, 4))


@pytest.mark.parametrize("name", NAMES)
def test_fit_and_held_out_repeat_exactly(name: str, make_evidence) -> None:
    evidence, labels = make_evidence(24, 3, 10, signal=0.5)
    head = make_head(name)
    texts = reference(head, 3, 10)
    first, second = (head.held_out(evidence, labels, texts) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    one, two = (head.fit(evidence, labels, texts).state() for _ in range(2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


@pytest.fixture
def nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixes strengths and factors, the only numbers that may see all labels."""
    monkeypatch.setattr(weighing, "fit_factors", lambda terms, _: np.ones(terms.shape[:-2]))
    monkeypatch.setattr(discriminant, "_STRENGTHS", np.array([0.3]))
    monkeypatch.setattr(nearest, "_NEIGHBOURS", (4,))


@pytest.mark.usefixtures("nothing_is_chosen")
@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize("example", [0, 3, 10, 11])
def test_a_held_out_label_is_never_seen(name, example, make_evidence) -> None:
    """With strengths and factors fixed, its own label changes nothing; other examples' do."""
    evidence, _ = make_evidence(12, 4, 10, words=1.0)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3])
    before = make_head(name).held_out(evidence, labels, None)
    for other in range(4):
        flipped = labels.copy()
        flipped[example] = other
        after = make_head(name).held_out(evidence, flipped, None)
        np.testing.assert_allclose(after[example], before[example], atol=1e-9)
        if other != labels[example]:
            assert not np.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("name", WEIGHED)
def test_with_all_weight_on_the_label_words_it_is_a_balanced_calibration(
    name, make_evidence, monkeypatch
) -> None:

    def last_alone(terms, _):
        return np.broadcast_to(np.eye(terms.shape[-3])[-1], terms.shape[:-2])

    monkeypatch.setattr(weighing, "fit_factors", last_alone)
    evidence, labels = make_evidence(24, 3, 10, words=2.0)
    evidence.label_logprobs[:] += np.array([0.0, -3.0, 2.0], np.float32)
    kept = np.flatnonzero((labels < 2) | (np.arange(24) < 6))
    evidence, labels = evidence.select(kept), labels[kept]
    unseen, _ = make_evidence(9, 3, 10, seed=1)
    means = [evidence.label_logprobs[labels == k].mean(axis=0, dtype=float) for k in range(3)]
    np.testing.assert_allclose(
        make_head(name).fit(evidence, labels, None).log_proba(unseen),
        log_softmax(unseen.label_logprobs - np.mean(means, axis=0), axis=1),
        atol=1e-5,
    )


@pytest.mark.parametrize("name", WEIGHED)
def test_a_flipped_label_moves_its_own_prediction_by_the_settings_alone(
    name: str, make_evidence
) -> None:
    evidence, labels = make_evidence(60, 2, 20, signal=0.0)
    before = np.exp(make_head(name).held_out(evidence, labels, None))
    labels[3] = 1 - labels[3]
    after = np.exp(make_head(name).held_out(evidence, labels, None))
    np.testing.assert_allclose(before[3], after[3], atol=0.15)
