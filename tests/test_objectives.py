import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax
from sklearn.metrics import hinge_loss, log_loss, zero_one_loss

from blackbox_delta.errors import BackendError, ConfigError, DataError
from blackbox_delta.objectives import HINGE_MARGIN, OBJECTIVES, make_objective


@st.composite
def cases(draw, most_classes=6, largest=20):
    n, c = draw(st.integers(1, 12)), draw(st.integers(2, most_classes))
    logits = draw(hnp.arrays(np.float64, (n, c), elements=st.floats(-largest, largest)))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return log_softmax(logits, axis=1), labels


@settings(max_examples=40, deadline=None)
@given(cases(largest=17))  # beyond, sklearn clips what is less likely than 2^-52
def test_cross_entropy_is_sklearns_log_loss(case):
    log_proba, labels = case
    expected = log_loss(labels, np.exp(log_proba), labels=range(log_proba.shape[1]))
    loss = make_objective("cross-entropy")(log_proba, labels)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases(most_classes=2))
def test_hinge_of_two_classes_is_sklearns(case):
    log_proba, labels = case
    assume(len(set(labels)) == 2)  # sklearn reads labels of a single class as negative
    decision = (log_proba[:, 1] - log_proba[:, 0]) / HINGE_MARGIN
    expected = HINGE_MARGIN * hinge_loss(labels, decision, labels=[0, 1])
    assert make_objective("hinge")(log_proba, labels) == pytest.approx(expected, abs=1e-9)


@given(cases())
def test_hinge_is_the_sum_over_the_wrong_classes(case):
    log_proba, labels = case
    expected = np.mean(
        [
            sum(max(0, 2 + row[i] - row[y]) for i in range(len(row)) if i != y)
            for row, y in zip(log_proba.tolist(), labels, strict=True)
        ]
    )
    assert make_objective("hinge")(log_proba, labels) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_error_rate_is_sklearns_zero_one_loss(case):
    log_proba, labels = case
    loss = make_objective("error-rate")(log_proba, labels)
    assert loss == pytest.approx(zero_one_loss(labels, log_proba.argmax(axis=1)))


def test_values_worked_by_hand():
    log_proba, labels = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([0, 0])
    assert make_objective("cross-entropy")(log_proba, labels) == pytest.approx(np.log(20) / 2)
    assert make_objective("error-rate")(log_proba, labels) == 0.5
    expected = (2 * (2 - np.log(2)) + (2 + np.log(8)) + 2) / 2
    assert make_objective("hinge")(log_proba, labels) == pytest.approx(expected)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_never_becomes_a_loss(name, bad):
    log_proba = np.log(np.full((3, 2), 0.5))
    log_proba[1, 1] = bad
    with pytest.raises(BackendError, match="example 1"):
        make_objective(name)(log_proba, np.array([0, 0, 0]))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("log_proba", "labels"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64)),
        (np.zeros(2), np.array([0, 1])),
        (np.zeros((2, 2)), np.array([0])),
        (np.zeros((2, 2)), np.array([0, 2])),
        (np.zeros((2, 2)), np.array([0, -1])),
    ],
)
def test_labels_that_do_not_fit_are_refused(name, log_proba, labels):
    with pytest.raises(DataError):
        make_objective(name)(log_proba, labels)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(ConfigError, match="cross-entropy, hinge, error-rate"):
        make_objective("accuracy")
