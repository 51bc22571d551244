import numpy as np
import pytest

from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.heads import CalibratedHead, ContextualHead, PlainHead


def test_plain_is_the_normalised_probability_of_the_label_words(make_evidence) -> None:
    evidence, labels = make_evidence(9, 4, 0)
    probabilities = np.exp(evidence.label_logprobs.astype(float))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    head = PlainHead()
    np.testing.assert_allclose(
        np.exp(head.fit(evidence, labels, None).log_proba(evidence)), probabilities
    )
    np.testing.assert_allclose(np.exp(head.held_out(evidence, labels, None)), probabilities)


def test_calibrated_held_out_is_a_fit_on_the_others(make_evidence) -> None:
    evidence, labels = make_evidence(11, 3, 4)
    head = CalibratedHead()
    held = head.held_out(evidence, labels, None)
    for i in range(11):
        others = np.delete(np.arange(11), i)
        refit = head.fit(evidence.select(others), labels[others], None)
        np.testing.assert_allclose(
            held[i], refit.log_proba(evidence.select([i]))[0], rtol=1e-9, atol=1e-9
        )


def test_calibrated_takes_off_what_every_text_shares(make_evidence) -> None:
    evidence, labels = make_evidence(12, 3, 0)
    biased = make_evidence(12, 3, 0)[0]
    biased.label_logprobs[:] += np.array([0.0, -7.0, 3.0], np.float32)
    head = CalibratedHead()
    np.testing.assert_allclose(
        head.fit(biased, labels, None).log_proba(biased),
        head.fit(evidence, labels, None).log_proba(evidence),
        atol=1e-5,
    )


def test_contextual_divides_by_the_mean_content_free_probability(make_evidence) -> None:
    evidence, labels = make_evidence(5, 3, 0)
    reference, _ = make_evidence(3, 3, 0, seed=8)

    def normalised(values: np.ndarray) -> np.ndarray:
        return values / values.sum(axis=1, keepdims=True)

    content_free = normalised(np.exp(reference.label_logprobs.astype(float))).mean(axis=0)
    expected = normalised(normalised(np.exp(evidence.label_logprobs.astype(float))) / content_free)
    head = ContextualHead()
    assert len(head.references(())) == 3
    np.testing.assert_allclose(
        np.exp(head.fit(evidence, labels, reference).log_proba(evidence)), expected
    )
    np.testing.assert_allclose(np.exp(head.held_out(evidence, labels, reference)), expected)


def test_contextual_makes_a_content_free_text_undecided(make_evidence) -> None:
    evidence, labels = make_evidence(6, 4, 0)
    one = evidence.select([2])
    fitted = ContextualHead().fit(evidence, labels, one)
    np.testing.assert_allclose(fitted.log_proba(one), np.log(0.25), atol=1e-9)


def test_contextual_without_its_texts_is_refused(make_evidence) -> None:
    evidence, labels = make_evidence(6, 2, 0)
    with pytest.raises(ConfigError, match="content-free"):
        ContextualHead().fit(evidence, labels, None)
    with pytest.raises(ConfigError, match="content-free"):
        ContextualHead().held_out(evidence, labels, evidence.select([]))


def test_calibrated_needs_two_examples(make_evidence) -> None:
    evidence, labels = make_evidence(1, 2, 0)
    with pytest.raises(DataError, match="at least two"):
        CalibratedHead().fit(evidence, labels, None)
