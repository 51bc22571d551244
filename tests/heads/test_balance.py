import numpy as np
import pytest

from blackbox_delta.heads.balance import balanced_mean, held_out_balanced_means, vote_weights

LABELS = [
    pytest.param([0, 1], id="two"),
    pytest.param([0, 0, 0], id="one-class"),
    pytest.param([0] * 9 + [3], id="a-single-example"),
    pytest.param([2, 0, 2, 2, 0, 5, 5], id="gaps"),
]


def test_large_classes_count_no_more() -> None:
    values = np.array([[1.0], [1.0], [1.0], [5.0]])
    assert balanced_mean(values, np.array([0, 0, 0, 1])).tolist() == [3.0]


@pytest.mark.parametrize("labels", LABELS)
def test_held_out_means_are_means_of_the_others(labels) -> None:
    y = np.array(labels)
    values = np.random.default_rng(0).normal(size=(len(y), 3))
    found = held_out_balanced_means(values, y)
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        np.testing.assert_allclose(found[i], balanced_mean(values[others], y[others]), atol=1e-12)


@pytest.mark.parametrize("labels", LABELS)
def test_every_class_has_the_same_say(labels) -> None:
    counts = np.bincount(labels)
    say = (counts * vote_weights(counts))[counts > 0]
    np.testing.assert_allclose(say, len(labels) / len(say))
