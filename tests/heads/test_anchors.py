import numpy as np
import pytest

from blackbox_delta.errors import ConfigError
from blackbox_delta.heads import make_head
from blackbox_delta.heads.anchors import PHRASES, anchor_directions, anchor_texts
from blackbox_delta.types import Evidence, IntArray


def spoken(means: np.ndarray, labels: IntArray, noise: float, seed: int) -> Evidence:
    """Replies of a model whose classes shift the tokens' scores by ``means`` (c, vocabulary)."""
    rng = np.random.default_rng(seed)
    c, size = means.shape
    scores = means[labels] + noise * rng.normal(size=(len(labels), size))
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    order = np.argsort(-scores, axis=1, kind="stable")
    return Evidence(
        # What the label words themselves get says nothing in this model.
        rng.normal(size=(len(labels), c)).astype(np.float32),
        order.astype(np.int64),
        np.take_along_axis(scores, order, axis=1).astype(np.float32),
    )


def test_every_phrase_holds_every_word_phrase_by_phrase() -> None:
    texts = anchor_texts(["good", "not good"])
    assert len(texts) == 2 * len(PHRASES) == len(set(texts))
    assert [word in text for text, word in zip(texts, ["good", "not good"] * 4, strict=True)]
    assert texts[:2] == ("good", "not good")


def test_directions_are_class_means_less_the_mean_of_all() -> None:
    rows = np.random.default_rng(0).normal(size=(len(PHRASES) * 3, 7))
    found = anchor_directions(rows, 3)
    means = np.stack([rows[k::3].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(found, (means - rows.mean(axis=0)).T)
    np.testing.assert_allclose(found.sum(axis=1), 0.0, atol=1e-12)


def test_a_wrong_number_of_replies_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs the replies to its 12 anchor texts"):
        anchor_directions(np.zeros((11, 7)), 3)


def test_without_anchors_it_is_the_discriminant(make_evidence) -> None:
    evidence, labels = make_evidence(24, 3, 10, signal=0.5)
    anchored, plain = make_head("anchored"), make_head("discriminant")
    np.testing.assert_array_equal(
        anchored.held_out(evidence, labels, None), plain.held_out(evidence, labels, None)
    )
    np.testing.assert_array_equal(
        anchored.fit(evidence, labels, None).log_proba(evidence),
        plain.fit(evidence, labels, None).log_proba(evidence),
    )


def accuracies(means: np.ndarray, of_anchors: np.ndarray) -> tuple[float, float]:
    """On new texts, with anchors and without, from four examples a class."""
    c = len(means)
    labels = np.arange(4 * c) % c
    new = np.arange(600) % c
    training, texts = spoken(means, labels, 1.0, seed=1), spoken(means, new, 1.0, seed=2)
    anchors = spoken(of_anchors, np.arange(len(PHRASES) * c) % c, 0.3, seed=3)
    head = make_head("anchored")
    found = (head.fit(training, labels, reference) for reference in (anchors, None))
    with_them, without = (fitted.log_proba(texts).argmax(axis=1) == new for fitted in found)
    return float(with_them.mean()), float(without.mean())


@pytest.mark.parametrize("c", [2, 5])
def test_anchors_that_speak_like_their_class_help_and_others_do_no_harm(c: int) -> None:
    rng = np.random.default_rng(0)
    means = 0.35 * rng.normal(size=(c, 60))
    helped, alone = accuracies(means, means)
    assert helped > alone + 0.03
    misled, alone = accuracies(means, 0.35 * rng.normal(size=(c, 60)))
    assert misled > alone - 0.05


def test_held_out_predictions_do_not_see_the_anchors_as_examples(make_evidence) -> None:
    """Anchors add a direction, never rows: the number of predictions is that of the examples."""
    evidence, labels = make_evidence(12, 3, 10)
    anchors, _ = make_evidence(len(PHRASES) * 3, 3, 10, seed=4)
    assert make_head("anchored").held_out(evidence, labels, anchors).shape == (12, 3)
