import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from blackbox_delta.errors import ArtifactError, ConfigError, DataError
from blackbox_delta.heads import HEADS, head_from_state, make_head
from blackbox_delta.types import Evidence, FittedHead, Head, IntArray

NAMES = list(HEADS)
LEARNED = ["logistic", "ridge", "discriminant", "anchored", "prototypes", "nearest"]


def evidence_of(logprobs: np.ndarray, top_ids: np.ndarray, top: np.ndarray) -> Evidence:
    return Evidence(logprobs.astype(np.float32), top_ids.astype(np.int64), top.astype(np.float32))


def reference(head: Head, c: int, k: int) -> Evidence:
    rng = np.random.default_rng(5)
    texts = max(len(head.references([f"word {i}" for i in range(c)])), 1)
    ids = np.tile(np.arange(k), (texts, 1))
    logprobs = -rng.exponential(5, (texts, c))
    return evidence_of(logprobs, ids, -np.sort(rng.exponential(5, (texts, k))))


def assert_log_probabilities(log_proba: np.ndarray, shape: tuple[int, int]) -> None:
    assert log_proba.shape == shape
    assert log_proba.dtype == np.float64
    assert np.isfinite(log_proba).all()
    np.testing.assert_allclose(np.exp(log_proba).sum(axis=1), 1.0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_answers_to_its_name(name: str) -> None:
    head: Head = make_head(name)
    assert head.kind == name


def test_top_k_is_held_to_what_the_backend_returns() -> None:
    assert make_head("ridge", max_top_k=20).top_k == 20
    assert make_head("ridge", max_top_k=10_000).top_k == make_head("ridge").top_k
    assert make_head("logistic", max_top_k=0).top_k == 0
    assert make_head("plain", max_top_k=20).top_k == 0


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'forest'.*plain.*calibrated.*contextual.*ridge"):
        make_head("forest")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("c", "n", "k"), [(2, 16, 5), (3, 10, 0), (6, 12, 20), (77, 77, 8)])
def test_state_survives_safetensors_exactly(name, c, n, k, make_evidence) -> None:
    evidence, labels = make_evidence(n, c, k)
    unseen, _ = make_evidence(7, c, k, seed=1)
    head = make_head(name)
    fitted: FittedHead = head.fit(evidence, labels, reference(head, c, k))
    assert fitted.kind == name
    rebuilt = head_from_state(fitted.kind, load(save(fitted.state())))
    assert rebuilt.kind == name
    assert rebuilt.top_k == (k if name in LEARNED else 0)
    np.testing.assert_array_equal(rebuilt.log_proba(unseen), fitted.log_proba(unseen))
    assert_log_probabilities(fitted.log_proba(unseen), (7, c))


@pytest.mark.parametrize("name", ["calibrated", "contextual", *LEARNED])
def test_a_state_that_lacks_an_array_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        head_from_state(name, {})


def test_a_state_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ArtifactError, match="'forest'"):
        head_from_state("forest", {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([0, 1], id="one-of-each"),
        pytest.param([0, 0, 0, 1], id="a-single-example"),
        pytest.param([0, 0, 0], id="one-class-only"),
        pytest.param([0, 2, 2, 0, 2], id="a-class-without-examples"),
        pytest.param([4, 0, 1, 3, 2], id="five-singletons"),
    ],
)
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("constant", [False, True])
def test_degenerate_training_sets_give_finite_answers(name, labels, k, constant) -> None:
    rng = np.random.default_rng(0)
    y: IntArray = np.array(labels)
    n, c = len(y), max(y.max() + 1, 2)
    logprobs = np.full((n, c), -3.0) if constant else -rng.exponential(4, (n, c))
    top = np.full((n, k), -1.0) if constant else -np.sort(rng.exponential(1, (n, k)), axis=1)
    evidence = evidence_of(logprobs, np.tile(np.arange(k), (n, 1)), top)
    head = make_head(name)
    assert_log_probabilities(head.held_out(evidence, y, reference(head, c, k)), (n, c))
    fitted = head.fit(evidence, y, reference(head, c, k))
    assert_log_probabilities(fitted.log_proba(evidence), (n, c))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_evidence_gives_probabilities(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12))
    c = data.draw(st.integers(2, 6))
    k = data.draw(st.integers(0, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = data.draw(st.sampled_from([1e-7, 1.0, 300.0]))
    labels = rng.integers(0, c, n)
    ids = np.array([rng.choice(9, k, replace=False) for _ in range(n)]).reshape(n, k)
    top = -np.sort(rng.exponential(spread, (n, k)), axis=1)
    evidence = evidence_of(-rng.exponential(spread, (n, c)), ids, top)
    head = make_head(name)
    assert_log_probabilities(head.held_out(evidence, labels, reference(head, c, k)), (n, c))
    fitted = head.fit(evidence, labels, reference(head, c, k))
    assert_log_probabilities(fitted.log_proba(evidence), (n, c))


@pytest.mark.parametrize("name", ["calibrated", *LEARNED])
@pytest.mark.parametrize(
    ("n", "labels", "message"),
    [
        (1, [0], "at least two"),
        (3, [0, 1], "3 examples, 2"),
        (3, [0, 1, 2], "between 0 and 1"),
        (2, [-1, 1], "between 0 and 1"),
    ],
)
def test_unusable_training_data_is_refused(name, n, labels, message) -> None:
    evidence = evidence_of(-np.ones((n, 2)), np.zeros((n, 1)), -np.ones((n, 1)))
    with pytest.raises(DataError, match=message):
        make_head(name).held_out(evidence, np.array(labels), None)


@pytest.mark.parametrize("name", ["calibrated", *LEARNED])
def test_evidence_on_other_labels_is_refused(name, make_evidence) -> None:
    fitted = make_head(name).fit(*make_evidence(8, 2, 5), None)
    with pytest.raises(ConfigError, match="fitted for 2 labels but the evidence holds 3"):
        fitted.log_proba(make_evidence(8, 3, 5)[0])


@pytest.mark.parametrize("name", LEARNED)
def test_evidence_with_other_top_tokens_is_refused(name, make_evidence) -> None:
    fitted = make_head(name).fit(*make_evidence(8, 2, 5), None)
    with pytest.raises(ConfigError, match="top 5 tokens but the evidence holds 3"):
        fitted.log_proba(make_evidence(8, 2, 3)[0])


@pytest.mark.parametrize("name", LEARNED)
def test_threads_are_given_back(name, make_evidence) -> None:
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info()]

    evidence, labels = make_evidence(8, 2, 5)
    make_head(name).fit(evidence, labels, None)  # loads the libraries
    before = threads()
    make_head(name).held_out(evidence, labels, None)
    assert threads() == before


@pytest.mark.parametrize("name", LEARNED)
def test_held_out_does_not_leak_labels(name, make_evidence) -> None:
    """On pure noise a held-out estimate must not look better than chance."""
    rates = []
    for seed in range(6):
        evidence, labels = make_evidence(60, 2, 20, seed=seed, signal=0.0)
        held = make_head(name).held_out(evidence, labels, None)
        rates.append((held.argmax(axis=1) == labels).mean())
    assert np.mean(rates) < 0.6


@pytest.mark.parametrize("name", LEARNED)
def test_learned_heads_find_the_signal_among_the_top_tokens(name, make_evidence) -> None:
    evidence, labels = make_evidence(48, 3, 20, signal=0.8)
    unseen, truth = make_evidence(300, 3, 20, seed=1, signal=0.8)
    plain = make_head("plain").fit(evidence, labels, None)
    learned = make_head(name).fit(evidence, labels, None)
    rate = (learned.log_proba(unseen).argmax(axis=1) == truth).mean()
    assert rate > 0.8
    assert rate > (plain.log_proba(unseen).argmax(axis=1) == truth).mean() + 0.1
    held = make_head(name).held_out(evidence, labels, None)
    assert abs((held.argmax(axis=1) == labels).mean() - rate) < 0.15
