import tracemalloc

import numpy as np
import pytest

from blackbox_delta.errors import ConfigError
from blackbox_delta.heads import make_head
from blackbox_delta.heads.features import Design, FeatureMap
from blackbox_delta.types import Evidence

TRAINING = Evidence(
    np.array([[-1.0, -2.0], [-3.0, -4.0]], np.float32),
    np.array([[7, 3], [3, 5]]),
    np.array([[-0.5, -0.75], [-0.25, -1.5]], np.float32),
)


def test_columns_are_the_labels_then_the_union_of_top_tokens() -> None:
    features = FeatureMap.of(TRAINING)
    assert features.vocabulary.tolist() == [3, 5, 7]
    assert features.size == 5
    # labels less their mean; tokens above the floor of their reply, which lies at 1
    assert features(TRAINING).tolist() == [
        [0.5, -0.5, 1.0, 0.0, 1.25],
        [0.5, -0.5, 2.25, 1.0, 0.0],
    ]


def test_tokens_unknown_at_fit_have_no_column() -> None:
    unseen = Evidence(
        np.array([[-1.0, -1.0]], np.float32),
        np.array([[9, 1]]),
        np.array([[-0.5, -2.0]], np.float32),
    )
    assert FeatureMap.of(TRAINING)(unseen).tolist() == [[0.0, 0.0, 0.0, 0.0, 0.0]]


def test_a_missing_token_ranks_below_all_that_were_returned(make_evidence) -> None:
    evidence, _ = make_evidence(20, 3, 10)
    features = FeatureMap.of(evidence)
    tokens = features(evidence)[:, 3:]
    for row, ids in zip(tokens, evidence.top_ids, strict=True):
        returned = np.isin(features.vocabulary, ids)
        assert row[~returned].max() < row[returned].min()


def test_the_order_of_the_reply_does_not_matter(make_evidence) -> None:
    evidence, _ = make_evidence(10, 2, 8)
    backwards = Evidence(
        evidence.label_logprobs, evidence.top_ids[:, ::-1], evidence.top_logprobs[:, ::-1]
    )
    np.testing.assert_array_equal(
        FeatureMap.of(backwards)(backwards), FeatureMap.of(evidence)(evidence)
    )


def test_without_top_tokens_the_labels_are_the_features(make_evidence) -> None:
    evidence, _ = make_evidence(6, 4, 0)
    features = FeatureMap.of(evidence)
    assert features.size == 4
    labels = evidence.label_logprobs.astype(float)
    np.testing.assert_array_equal(features(evidence), labels - labels.mean(axis=1, keepdims=True))


def test_another_number_of_top_tokens_is_refused(make_evidence) -> None:
    features = FeatureMap.of(make_evidence(6, 2, 5)[0])
    with pytest.raises(ConfigError, match="top 5 tokens but the evidence holds 3"):
        features(make_evidence(6, 2, 3)[0])


def test_the_design_is_centred_and_label_words_count_double(make_evidence) -> None:
    evidence, _ = make_evidence(30, 3, 10)
    design = Design.of(evidence)
    raw = FeatureMap.of(evidence)(evidence)
    centred = raw - raw.mean(axis=0)
    np.testing.assert_allclose(design.matrix[:, :3], 2.0 * centred[:, :3], atol=1e-12)
    np.testing.assert_allclose(design.matrix[:, 3:], centred[:, 3:], atol=1e-12)
    np.testing.assert_allclose(design.label_scores, centred[:, :3], atol=1e-12)


def test_constant_columns_count_for_nothing() -> None:
    logprobs = np.array([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]], np.float32)
    top = np.tile(np.array([[-0.1, -0.7]], np.float32), (3, 1))
    design = Design.of(Evidence(logprobs, np.tile([[4, 2]], (3, 1)), top))
    np.testing.assert_allclose(design.matrix, 0.0, atol=1e-12)


def test_unscaled_weights_give_the_same_scores(make_evidence) -> None:
    evidence, _ = make_evidence(15, 3, 6)
    design = Design.of(evidence)
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(design.features.size, 3)), rng.normal(size=3)
    raw_weights, raw_bias = design.unscaled(weights, bias)
    np.testing.assert_allclose(
        design.features(evidence) @ raw_weights + raw_bias,
        design.matrix @ weights + bias,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", ["ridge", "anchored"])
def test_a_head_holds_the_matrix_once(name: str) -> None:
    """Of a thousand examples it takes hundreds of megabytes, more than all else together."""
    rng = np.random.default_rng(0)
    n, k = 64, 100
    evidence = Evidence(
        rng.normal(size=(n, 2)).astype(np.float32),
        np.stack([rng.choice(100_000, k, replace=False) for _ in range(n)]),
        -np.sort(rng.exponential(size=(n, k)).astype(np.float32)),
    )
    labels = np.arange(n) % 2
    matrix = Design.of(evidence).matrix.nbytes
    head = make_head(name)
    tracemalloc.start()
    head.held_out(evidence, labels, None)
    head.fit(evidence, labels, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.8 * matrix
