"""The estimator keeps scikit-learn's promises and answers as ``tune`` does."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from faulty_server import FaultyServer
from precisions import Half
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import blackbox_delta.estimator
from blackbox_delta import BlackBoxClassifier, tune
from blackbox_delta.backends import open_backend
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.errors import (
    ConfigError,
    DataError,
    FingerprintError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.report import time_free
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import split_by_share, task_from_lists, train_on_all

# The default view, and one or two more.
QUICK = {"model": "fake", "dimension": 5, "budget": "4 calls"}
# The untuned model, one generation, and a look at its mean.
SEARCH = {"recipe": "search", "budget": "25 calls"}
TOPICS = {
    "sports": "sports game team match player coach season league goal football",
    "money": "business market stock bank price shares profit company trade sales",
    "science": "science computer software research space internet study data chip scientist",
}
FILLER = ["the", "a", "is", "was", "it", "this", "that", "of", "and", "to", "in", "with", "my"]


def quick(**parameters: Any) -> BlackBoxClassifier:
    return BlackBoxClassifier(**{**QUICK, **parameters})


def messages(counts: dict[str, int], seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts on the topics, shuffled, no two alike."""
    rng = np.random.default_rng(seed)
    made = [
        (" ".join([*rng.choice(TOPICS[topic].split(), 3), *rng.choice(FILLER, 4), str(i)]), topic)
        for topic, count in counts.items()
        for i in range(count)
    ]
    order = rng.permutation(len(made))
    return [made[i][0] for i in order], [made[i][1] for i in order]


TEXTS, LABELS = messages({"sports": 8, "money": 8, "science": 8})
FRESH, ANSWERS = messages({"sports": 20, "money": 20, "science": 20}, seed=1)


# --------------------------------------------------------------- scikit-learn's own checks


class NumericRows(BlackBoxClassifier):
    """Reads rows of numbers to the toy model, so that scikit-learn's checks have a text.

    A number becomes so many words of one topic and so many of another that a linear head can
    tell how large it is; the number itself follows, so that different rows stay different texts.
    """

    SCALE = (("great", "terrible"), ("sports", "business"), ("science", "world"))

    def fit(self, X: Any, y: Any) -> Self:
        X = validate_data(self, X)
        return super().fit(self._read_out(X), y)

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(self._read_out(validate_data(self, X, reset=False)))

    def _read_out(self, X: np.ndarray) -> list[str]:
        return [" ".join([*map(self._words, range(len(row)), row), *map(str, row)]) for row in X]

    def _words(self, column: int, value: float) -> str:
        high, low = self.SCALE[column % len(self.SCALE)]
        level = round(4 * (np.clip(value, -2, 2) + 2))
        return " ".join([high] * level + [low] * (16 - level))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


@parametrize_with_checks([NumericRows(**{**QUICK, "budget": "2 calls"})])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_tags_say_that_it_reads_texts() -> None:
    tags = get_tags(BlackBoxClassifier())
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "classifier"


def test_the_defaults_are_those_of_the_settings() -> None:
    parameters = BlackBoxClassifier().get_params()
    defaults = Settings().model_dump()
    shared = parameters.keys() & defaults.keys()
    assert shared == set(parameters) - {"model", "validation_fraction", "random_state"}
    assert {name: parameters[name] for name in shared} == {name: defaults[name] for name in shared}
    assert parameters["random_state"] == defaults["seed"]


# --------------------------------------------------------------- what it answers


def test_it_answers_as_tune_does_on_the_same_split() -> None:
    split = train_on_all(task_from_lists(TEXTS, LABELS), seed=7)
    more: dict[str, Any] = {"budget": "5 calls", "head": "ridge", "max_queries_per_example": 2}
    tuned = tune("fake", split, seed=7, dimension=5, **more)
    found = quick(random_state=7, **more).fit(TEXTS, LABELS)
    assert (len(split.train), len(split.dev)) == (24, 0)
    assert found.result_["queries_per_answer"] == 2
    assert time_free(found.result_) == time_free(tuned.result)
    assert found.predict(FRESH).tolist() == tuned.predict(FRESH)
    np.testing.assert_array_equal(found.predict_proba(FRESH), tuned.predict_proba(FRESH))


def test_a_fit_may_be_bounded_in_dollars() -> None:
    with pytest.raises(ConfigError, match="price_in and price_out"):
        quick(budget="$0.001").fit(TEXTS, LABELS)
    found = quick(budget="$0.001", price_in=0.5, price_out=2.0).fit(TEXTS, LABELS).result_
    assert found["cost_usd"] == pytest.approx(found["tokens"] * 0.5e-6)
    assert 0.0005 < found["cost_usd"] <= 0.001


def test_searching_keeps_a_share_to_choose_by() -> None:
    split = split_by_share(task_from_lists(TEXTS, LABELS), 0.25, seed=7)
    more: dict[str, Any] = {**SEARCH, "head": "calibrated"}
    tuned = tune("fake", split, seed=7, dimension=5, **more)
    found = quick(validation_fraction=0.25, random_state=7, **more).fit(TEXTS, LABELS)
    assert (len(split.train), len(split.dev)) == (18, 6)
    assert time_free(found.result_) == time_free(tuned.result)
    np.testing.assert_array_equal(found.predict_proba(FRESH), tuned.predict_proba(FRESH))


def test_auto_learns_from_every_example() -> None:
    shares = [quick(validation_fraction=share).fit(TEXTS, LABELS) for share in (0.25, 0.75)]
    for found in shares:
        assert found.result_["recipe"] == "auto"
        assert found.result_["train_n"] == len(TEXTS)
        assert 0 < found.result_["estimate"] <= 1
    np.testing.assert_array_equal(*(found.predict_proba(FRESH) for found in shares))


@pytest.mark.parametrize("parameters", [{}, SEARCH], ids=["auto", "search"])
def test_it_learns(parameters: dict[str, Any]) -> None:
    assert quick(**parameters).fit(TEXTS, LABELS).score(FRESH, ANSWERS) > 0.8


@pytest.mark.parametrize(
    "classes",
    [
        # As strings "10" comes before "9", "False" before "True" and "-1" before "1".
        np.array(["9", "10", "a"]),
        np.array([9, 10, 11], dtype=np.int32),
        np.array([1.0, 2.0, 10.0]),
        np.array(["money", "science", "sports"], dtype=object),
        np.array([False, True]),
        np.array([-1, 1]),
    ],
    ids=lambda classes: f"{classes.dtype}-{classes[-1]}",
)
def test_labels_keep_their_type_and_order(classes: np.ndarray) -> None:
    names = sorted(TOPICS)[: len(classes)]
    kept = [i for i, label in enumerate(LABELS) if label in names]
    y = classes[[names.index(LABELS[i]) for i in kept]]
    words = dict(zip(classes.tolist(), names, strict=True))
    found = quick(label_words=words).fit([TEXTS[i] for i in kept], y)
    assert found.classes_.dtype == y.dtype
    np.testing.assert_array_equal(found.classes_, np.unique(classes))
    predicted, probabilities = found.predict(FRESH), found.predict_proba(FRESH)
    assert predicted.dtype == y.dtype
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(predicted, found.classes_[probabilities.argmax(axis=1)])
    asked = [i for i, answer in enumerate(ANSWERS) if answer in names]
    right = [words[predicted.tolist()[i]] == ANSWERS[i] for i in asked]
    assert np.mean(right) > 0.7


@pytest.mark.parametrize(("kind", "values"), [("boolean", [True, False]), ("Int64", [1, 2])])
def test_labels_that_pandas_lets_be_missing_keep_their_type(kind: str, values: list[Any]) -> None:
    """As floats they would have other names, which the model is asked."""
    plain = [values[label == LABELS[0]] for label in LABELS]
    fitted = quick().fit(TEXTS, pd.Series(plain, dtype=kind))
    assert fitted.tuned_model_.labels == quick().fit(TEXTS, plain).tuned_model_.labels
    assert fitted.classes_.tolist() == sorted(values)
    assert {type(label) for label in fitted.classes_.tolist()} == {type(values[0])}


@pytest.mark.parametrize(
    "convert", [tuple, np.array, pd.Series, lambda texts: np.array(texts, dtype=object)]
)
def test_every_sequence_of_texts_is_the_same(convert: Any) -> None:
    usual = quick().fit(TEXTS, LABELS).predict_proba(FRESH)
    other = quick().fit(convert(TEXTS), pd.Series(LABELS)).predict_proba(convert(FRESH))
    np.testing.assert_array_equal(other, usual)


def pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(" ".join(text.split()[:2]), " ".join(text.split()[2:])) for text in texts]


@pytest.mark.parametrize(
    "convert", [list, np.array, lambda rows: pd.DataFrame(rows, columns=["premise", "other"])]
)
def test_pairs(convert: Any) -> None:
    template = "{text} {text_pair} {soft} topic {label}"
    found = quick(template=template).fit(convert(pairs(TEXTS)), LABELS)
    assert found.score(convert(pairs(FRESH)), ANSWERS) > 0.8
    with pytest.raises(DataError, match="lacks a second text"):
        found.predict(FRESH)


def test_a_text_that_occurs_twice_counts_once() -> None:
    once = quick().fit(TEXTS, LABELS)
    twice = quick().fit(TEXTS * 2, LABELS * 2)
    assert twice.result_["train_n"] == len(TEXTS)
    np.testing.assert_array_equal(twice.predict_proba(FRESH), once.predict_proba(FRESH))


def test_two_examples_of_a_class_are_enough_to_search() -> None:
    texts, labels = messages({"sports": 2, "money": 2})
    found = quick(**SEARCH).fit(texts, labels)
    assert (found.result_["train_n"], found.result_["dev_n"]) == (2, 2)
    assert set(found.predict(FRESH)) <= {"sports", "money"}


@pytest.mark.parametrize("counts", [{"sports": 1, "money": 1}, {"sports": 9, "money": 1}])
def test_one_example_of_a_class_is_enough_for_auto(counts: dict[str, int]) -> None:
    texts, labels = messages(counts)
    found = quick().fit(texts, labels)
    assert found.result_["train_n"] == len(texts)
    probabilities = found.predict_proba(FRESH)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert set(found.predict(FRESH)) <= set(counts)


def test_the_random_state_determines_the_result() -> None:
    def answers(random_state: Any) -> np.ndarray:
        return quick(random_state=random_state).fit(TEXTS, LABELS).predict_proba(FRESH)

    np.testing.assert_array_equal(answers(3), answers(3))
    np.testing.assert_array_equal(answers(np.int64(3)), answers(3))
    assert not np.array_equal(answers(3), answers(4))
    np.testing.assert_array_equal(
        answers(np.random.RandomState(3)), answers(np.random.RandomState(3))
    )


def test_a_random_state_goes_on_from_fit_to_fit() -> None:
    found = quick(random_state=np.random.RandomState(3))
    seeds = [found.fit(TEXTS, LABELS).result_["seed"] for _ in range(2)]
    state = np.random.RandomState(3)
    assert seeds == [state.randint(2**31 - 1) for _ in range(2)]


# --------------------------------------------------------------- among scikit-learn's tools


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were opened, in order; none is open to begin with."""
    names: list[str] = []

    def counted(model: str, **given: Any) -> Any:
        names.append(model)
        return open_backend(model, **given)

    blackbox_delta.estimator._opened.cache_clear()
    monkeypatch.setattr(blackbox_delta.estimator, "open_backend", counted)
    return names


def test_cross_validation_opens_the_model_once(opened: list[str]) -> None:
    scores = cross_val_score(quick(), TEXTS, LABELS, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert scores.mean() > 0.6
    assert opened == ["fake"]


def test_a_grid_search_over_heads_in_a_pipeline(opened: list[str]) -> None:
    lowered = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = Pipeline([("lower", lowered), ("classifier", quick())])
    most = np.array([1, 2])
    grid = {"classifier__head": ["plain", "ridge"], "classifier__max_queries_per_example": most}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise", scoring="neg_log_loss")
    search.fit([text.upper() for text in TEXTS], LABELS)
    means = search.cv_results_["mean_test_score"]
    assert len(means) == 4
    assert search.best_params_["classifier__head"] == "ridge"
    assert search.best_estimator_[-1].result_["head"] == "ridge"
    assert search.score(FRESH, ANSWERS) == pytest.approx(means.max(), abs=0.6)
    assert opened == ["fake"]


def test_only_the_latest_model_stays_open(opened: list[str]) -> None:
    first, second = quick(), quick(model="fake:other")
    for classifier in (first, second, first):
        classifier.fit(TEXTS, LABELS)
    assert opened == ["fake", "fake:other", "fake"]
    assert second.tuned_model_.backend.name == "fake:other"


def test_clones_share_an_open_backend() -> None:
    class Uncopyable(FakeBackend):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the model was copied")

    backend = Uncopyable()
    state = np.random.RandomState(1)
    words = {"sports": "game"}
    original = quick(model=backend, random_state=state, label_words=words)
    copied = clone(original)
    assert copied.model is backend
    assert copied.label_words == words
    assert copied.label_words is not words
    assert copied.random_state is not state
    scores = cross_val_score(
        make_pipeline(clone(quick(model=backend))), TEXTS, LABELS, cv=2, error_score="raise"
    )
    assert scores.mean() > 0.6
    assert backend.calls > 2


def test_clones_keep_their_metadata_requests() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        copied = clone(quick().set_score_request(sample_weight=True))
        assert copied.get_metadata_routing().score.requests == {"sample_weight": True}


# --------------------------------------------------------------- pickles


def test_a_pickle_answers_the_same_and_holds_no_model(opened: list[str]) -> None:
    fitted = quick().fit(TEXTS, LABELS)
    assert len(fitted.tuned_model_.members) > 1
    blackbox_delta.estimator._opened.cache_clear()
    copied = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    assert copied.result_ == fitted.result_
    assert "tuned_model_" not in dir(copied)
    assert opened == ["fake"], "the model is opened when it is needed, not before"
    np.testing.assert_array_equal(copied.predict_proba(FRESH), fitted.predict_proba(FRESH))
    assert opened == ["fake", "fake"]
    again = pickle.loads(pickle.dumps(copied))  # noqa: S301
    assert again.predict(FRESH).tolist() == fitted.predict(FRESH).tolist()


def test_threads_share_what_a_pickle_opens(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = pickle.loads(pickle.dumps(quick().fit(TEXTS, LABELS)))  # noqa: S301
    expected = copied.predict(FRESH).tolist()
    again = pickle.loads(pickle.dumps(copied))  # noqa: S301
    blackbox_delta.estimator._opened.cache_clear()
    opened.clear()
    slow = blackbox_delta.estimator.open_backend

    def slowly(model: str, **given: Any) -> Any:
        time.sleep(0.05)
        return slow(model, **given)

    monkeypatch.setattr(blackbox_delta.estimator, "open_backend", slowly)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: again.predict(FRESH).tolist(), range(16)))

    assert answers == [expected] * 16
    assert opened == ["fake"]


def test_a_text_under_two_labels_is_told(opened: list[str]) -> None:
    with pytest.raises(DataError, match="class 'b' has no text of its own: .* one label"):
        quick().fit(["great", "great ", "bad"], ["a", "b", "a"])
    assert opened == []


def test_joblib_stores_an_open_backend_by_its_name(tmp_path: Path) -> None:
    fitted = quick(model=FakeBackend("fake:mine")).fit(TEXTS, LABELS)
    joblib.dump(fitted, tmp_path / "classifier")
    copied = joblib.load(tmp_path / "classifier")
    assert copied.model == "fake:mine"
    assert copied.predict(FRESH).tolist() == fitted.predict(FRESH).tolist()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_pickle_is_opened_in_the_precision_that_it_was_tuned_in(
    by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions: list[str | None] = []

    def opened(_model: str, *, dtype: str | None, **_given: Any) -> FakeBackend:
        precisions.append(dtype)
        return Half()

    monkeypatch.setattr(blackbox_delta.estimator, "open_backend", opened)
    blackbox_delta.estimator._opened.cache_clear()
    fitted = quick(model="fake" if by_name else Half()).fit(TEXTS, LABELS)
    assert precisions == [None] * by_name
    copied = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    assert copied.predict(FRESH).tolist() == fitted.predict(FRESH).tolist()
    assert precisions[by_name:] == ["bf16"]
    blackbox_delta.estimator._opened.cache_clear()


def test_words_of_a_class_that_a_fold_lacks_are_left_aside() -> None:
    words = {label: label for label in [*np.unique(LABELS), "rare"]}
    fitted = quick(label_words=words).fit(TEXTS, LABELS)
    assert set(fitted.classes_) == set(LABELS)
    del words[LABELS[0]]
    with pytest.raises(VerbalizerError, match=f"no word for: {LABELS[0]}"):
        quick(label_words=words).fit(TEXTS, LABELS)


def test_a_pickle_refuses_another_model() -> None:
    copied = pickle.loads(pickle.dumps(quick().fit(TEXTS, LABELS)))  # noqa: S301
    copied.set_params(model="fake:other")
    with pytest.raises(FingerprintError):
        copied.predict(FRESH)
    assert copied.set_params(model="fake").predict(FRESH).shape == (len(FRESH),)


# --------------------------------------------------------------- models behind an API

KEY = "sk-toy-5f0e1d2c3b4a"


@pytest.fixture
def remote(
    toy_server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultyServer, BlackBoxClassifier]]:
    """A server that wants a key, and a classifier on it that has been fitted."""
    monkeypatch.setenv("TOY_KEY", KEY)
    toy_server.key = KEY
    endpoint = Endpoint(base_url=toy_server.url, key_env="TOY_KEY")
    words = {"sports": "sports", "money": "business", "science": "science"}
    with closing(open_backend(None, endpoint=endpoint)) as backend:
        classifier = BlackBoxClassifier(
            backend, label_words=words, recipe="search", budget="99 calls"
        )
        yield toy_server, classifier.fit(TEXTS, LABELS)


def test_clones_share_the_connection_and_show_no_key(
    remote: tuple[FaultyServer, BlackBoxClassifier],
) -> None:
    server, fitted = remote
    asked, queries = len(server.requests), server.received.total()
    copied = clone(fitted)
    assert copied.model is fitted.model
    assert copied.get_params()["model"] is fitted.model
    shown = [repr(copied), str(fitted.get_params()), repr(fitted.model), fitted._repr_html_()]
    for text in (*shown, json.dumps(fitted.result_)):
        assert KEY not in text
    assert server.url in repr(copied)
    assert len(server.requests) == asked, "none of this asks the server"
    scores = cross_val_score(copied, TEXTS, LABELS, cv=2, error_score="raise")
    assert scores.shape == (2,)
    # A fit asks about 6 texts under two starts, and 6 more; a score about the 12 others.
    assert server.received.total() - queries == 2 * (2 * 6 + 6 + 12)


def test_a_pickle_leads_back_to_the_server_and_holds_no_key(
    remote: tuple[FaultyServer, BlackBoxClassifier],
) -> None:
    server, fitted = remote
    expected = fitted.predict_proba(FRESH[:5])
    content = pickle.dumps(fitted)
    assert KEY.encode() not in content
    blackbox_delta.estimator._opened.cache_clear()
    requests = len(server.requests)
    copied = pickle.loads(content)  # noqa: S301
    assert KEY not in repr(copied)
    assert len(server.requests) == requests
    np.testing.assert_array_equal(copied.predict_proba(FRESH[:5]), expected)
    assert len(server.requests) == requests + 5, "the server is not probed again"
    # What it was tuned on is kept in a clone and in another pickle.
    for again in (clone(copied), pickle.loads(pickle.dumps(copied))):  # noqa: S301
        assert again.fit(TEXTS, LABELS).predict(FRESH[:5]).shape == (5,)
    copied.tuned_model_.backend.close()


# --------------------------------------------------------------- bad input


def test_it_must_be_fitted_first() -> None:
    with pytest.raises(NotFittedError):
        quick().predict(TEXTS)
    assert not hasattr(quick(), "tuned_model_")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(24), "position 0: the text .* is a float"),
        (np.ones((24, 2)), "position 0: the text .* is a float"),
        (np.ones((24, 3)), r"shape \(24, 3\)"),
        ([*TEXTS[:-1], "  "], "position 23: the text .* is empty"),
        ([*TEXTS[:-1], None], "position 23: the text .* is empty"),
        ([*pairs(TEXTS)[:-1], ("one", "")], "position 23: the text in column 'text_pair' is empty"),
        ([*TEXTS[:-1], ("one", "two")], "position 23: the text .* is a tuple"),
        ([np.array(["a", "b"]), np.array([["c"], ["d"]])], "cannot be read"),
        (TEXTS[0], "single str"),
        (dict.fromkeys(TEXTS), "single dict"),
        (TEXTS[:-1], "23 texts, but y holds 24"),
    ],
)
def test_texts_that_cannot_be_used(X: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quick().fit(X, LABELS)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 24, "one class"),
        ([*LABELS[:-1], ""], "position 23: the label .* is empty"),
        (np.array([*LABELS[:-1], None], dtype=object), "Unknown label type: y holds objects"),
        (np.linspace(0, 1, 24), "Unknown label type: continuous"),
        (pd.Series([*LABELS[:-1], pd.NA], dtype="string"), "y contains missing labels"),
        (np.full(24, np.nan), "NaN"),
        (np.ones((24, 2)), "1d array"),
        (None, "requires y"),
    ],
)
def test_labels_that_cannot_be_used(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quick().fit(TEXTS, y)


def test_searching_needs_two_examples_of_a_class() -> None:
    with pytest.raises(DataError, match="class 'b': 1, and 2 are needed"):
        quick(**SEARCH).fit(TEXTS, ["a"] * 23 + ["b"])


def test_no_examples_at_all() -> None:
    with pytest.raises(DataError, match="no class"):
        quick().fit([], [])


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({**SEARCH, "validation_fraction": 1.0}, ConfigError, "more than 0 and less than 1"),
        ({**SEARCH, "validation_fraction": "half"}, ConfigError, "validation_fraction"),
        ({"recipe": "magic"}, ConfigError, "recipe = 'magic'"),
        ({"max_queries_per_example": 0}, ConfigError, "max_queries_per_example = 0"),
        ({"random_state": -1}, ConfigError, "seed"),
        ({"random_state": "today"}, ConfigError, "random_state"),
        ({"model": 3}, ConfigError, "model"),
        ({"head": "none"}, ConfigError, "head"),
        ({"dimension": 0}, ConfigError, "dimension"),
        ({"delta": "hat"}, ConfigError, "no delta 'hat'"),
        ({"delta": "lora"}, UnsupportedError, "fake takes no lora"),
        ({"delta_settings": {"rank": 2}}, ConfigError, "soft-prompt has no setting 'rank'"),
        ({"label_words": {"sports": "game"}}, VerbalizerError, "money"),
        ({"label_words": ["game", "cash"]}, ConfigError, "label_words"),
    ],
)
def test_settings_that_make_no_sense(
    parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quick(**parameters).fit(TEXTS, LABELS)


def test_bad_input_costs_nothing() -> None:
    backend = FakeBackend()
    with pytest.raises(DataError):
        quick(model=backend).fit(TEXTS, ["a"] * 24)
    fitted = quick(model=backend).fit(TEXTS, LABELS)
    before = backend.queries
    with pytest.raises(DataError):
        fitted.predict([*FRESH, ""])
    assert backend.queries == before
