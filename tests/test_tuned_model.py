from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from listening import Listening
from sklearn.metrics import accuracy_score, f1_score, log_loss

from blackbox_delta.api import tune
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import (
    ArtifactError,
    BackendError,
    ConfigError,
    DataError,
    FingerprintError,
    RunError,
)
from blackbox_delta.runs import RESULT_NAME
from blackbox_delta.tasks import draw_split, load_task, task_from_lists
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example, ScoreRequest, Scores, Sink

TASK = load_task(str(files("blackbox_delta.data") / "support"))
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=20)
TEXTS = [example.text for example in SPLIT.test]
SEARCH: dict[str, Any] = {
    "recipe": "search",
    "dimension": 20,
    "soft_tokens": 3,
    "population": 4,
    "budget": "12 calls",
}
AUTO: dict[str, Any] = {"budget": "6 calls"}
FIRST = ["a great film", "what a bore", "she sings", "the bank is shut", "he won", "no news"]
SECOND = ["it was good", "it was fun", "she is silent", "no money today", "he lost", "quiet"]


@pytest.fixture(scope="module", params=[SEARCH, AUTO], ids=["search", "auto"])
def given(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture(scope="module")
def single(given: dict[str, Any]) -> TunedModel:
    return tune(FakeBackend(), SPLIT, **given)


@pytest.fixture(scope="module")
def paired(given: dict[str, Any]) -> TunedModel:
    labels = ["yes", "no", "no", "yes", "no", "yes"]
    return tune(FakeBackend(), task_from_lists(FIRST, labels, SECOND), **given, shots=1)


def test_probabilities_are_those_of_the_labels_in_their_order(single: TunedModel) -> None:
    proba = single.predict_proba(TEXTS)
    assert single.labels == TASK.labels
    assert proba.shape == (20, 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-9)
    np.testing.assert_array_equal(np.exp(single.log_proba(TEXTS)), proba)
    assert single.predict(TEXTS) == [TASK.labels[i] for i in proba.argmax(axis=1)]


def test_each_text_costs_one_query_a_member(single: TunedModel) -> None:
    backend = single.backend
    assert isinstance(backend, FakeBackend)
    before = backend.queries
    single.predict(TEXTS)
    assert backend.queries == before + len(TEXTS) * len(single.members)
    assert len(single.members) == single.result["queries_per_answer"]


def test_members_that_ask_alike_share_replies(single: TunedModel) -> None:
    twice = replace(single.artifact, members=single.artifact.members * 2)
    backend = FakeBackend()
    again = TunedModel(twice, backend)
    np.testing.assert_allclose(again.log_proba(TEXTS), single.log_proba(TEXTS), atol=1e-9)
    assert backend.queries == len(TEXTS) * len(single.members)


def test_members_take_turns_on_a_piece(single: TunedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = single.log_proba(TEXTS)
    monkeypatch.setattr("blackbox_delta.tuned_model.PIECE", 8)
    backend = Listening()
    again = TunedModel(single.artifact, backend).log_proba(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-9)
    sizes = [len(request.prompts) for request in backend.requests]
    count = len({member.source for member in single.members})
    assert sizes == [8] * count + [8] * count + [4] * count


def test_no_texts_give_no_answers_and_cost_nothing(single: TunedModel) -> None:
    backend = single.backend
    assert isinstance(backend, FakeBackend)
    before = backend.calls
    assert single.predict([]) == []
    assert single.predict_proba([]).shape == (0, 5)
    assert backend.calls == before


def test_examples_are_read_as_texts(single: TunedModel, paired: TunedModel) -> None:
    examples = [Example(text) for text in TEXTS]
    np.testing.assert_allclose(single.log_proba(examples), single.log_proba(TEXTS), atol=1e-12)
    pairs = [Example(one, other) for one, other in zip(FIRST, SECOND, strict=True)]
    np.testing.assert_allclose(paired.log_proba(pairs), paired.log_proba(FIRST, SECOND), atol=1e-12)


def test_the_second_text_is_read(paired: TunedModel) -> None:
    swapped = paired.log_proba(FIRST, SECOND[::-1])
    assert not np.allclose(swapped, paired.log_proba(FIRST, SECOND))


def test_evaluation_agrees_with_scikit_learn(single: TunedModel) -> None:
    metrics = single.evaluate(SPLIT.test)
    truth = [example.label for example in SPLIT.test]
    predicted = single.predict(TEXTS)
    assert metrics.n == 20
    assert metrics.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert metrics.log_loss == pytest.approx(
        log_loss(truth, single.predict_proba(TEXTS), labels=TASK.labels)
    )


@pytest.mark.parametrize(
    ("examples", "what"),
    [
        ([], "no examples"),
        ([Example("a text")], "has no label"),
        ([Example("a text", label="unheard of")], "unheard of"),
        (["billing", "delivery"], "give labelled examples, such as load_task"),
        (TASK, "give labelled examples, such as load_task"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(single: TunedModel, examples: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        single.evaluate(examples)


def test_half_a_character_is_refused_before_anything_is_sent(single: TunedModel) -> None:
    with pytest.raises(DataError, match="text 2 of the input has a broken character"):
        single.predict(["fine", "\ud83d film"])


def test_an_example_takes_no_second_text_beside_it(paired: TunedModel) -> None:
    with pytest.raises(DataError, match="an Example has its second text with it"):
        paired.predict([Example("one", "two")], ["three"])


@pytest.mark.parametrize(
    ("texts", "pairs", "what"),
    [
        ("one text", None, r"must be a list of texts, not one text; write \[text\]"),
        (Example("one text"), None, "must be a list"),
        (None, None, "must be a list of texts, not a NoneType"),
        ((text for text in ["fine"]), None, "not a generator"),
        (pd.DataFrame({"text": ["fine"]}), None, "not a DataFrame"),
        (np.array([["fine"]]), None, "not a ndarray"),
        ({"fine": 1}, None, "not a dict"),
        (["fine"], 5, "not a int"),
        (["fine", ""], None, "text 2 of the input is empty"),
        (["fine", " \n"], None, "text 2 of the input is empty"),
        (["fine", None], None, "text 2 .* not a text"),
        ([b"bytes"], None, "text 1 .* not a text"),
        (["fine"], ["more"], "text 1 of the input has a second text"),
        ([Example("fine", "more")], None, "text 1 of the input has a second text"),
        (["fine"], [], "1 texts but 0 second texts"),
    ],
)
def test_single_texts_are_checked(single: TunedModel, texts: Any, pairs: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        single.predict(texts, pairs)


@pytest.mark.parametrize("kind", [np.array, pd.Series, tuple])
def test_any_kind_of_list_will_do(single: TunedModel, paired: TunedModel, kind: Any) -> None:
    texts, others = ["fine", "dull"], ["more", "less"]
    assert single.predict(kind(texts)) == single.predict(texts)
    assert paired.predict(kind(texts), kind(others)) == paired.predict(texts, others)


@pytest.mark.parametrize(
    ("texts", "pairs", "what"),
    [
        (["fine"], None, "text 1 of the input lacks a second text"),
        (["fine", "fine"], "ab", "must be a list"),
        (["fine", "fine"], ["a"], "2 texts but 1 second texts"),
        (["fine"], [""], "second text 1 of the input is empty"),
        (["fine"], [3], "second text 1 .* not a text"),
        ([Example("fine")], None, "lacks a second text"),
    ],
)
def test_pairs_are_checked(paired: TunedModel, texts: Any, pairs: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        paired.predict(texts, pairs)


def test_predictions_are_asked_for_as_such(single: TunedModel) -> None:
    backend = Listening()
    TunedModel(single.artifact, backend).predict(TEXTS)
    assert {request.purpose for request in backend.requests} == {"prediction"}


class NotANumber(FakeBackend):
    """A model gone wrong after it was tuned."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        reply = super().score(request, sink)
        reply.label_logprobs[0, -1] = np.nan
        return reply


def test_a_reply_that_is_no_number_is_never_an_answer(single: TunedModel) -> None:
    with pytest.raises(BackendError, match="not finite"):
        TunedModel(single.artifact, NotANumber()).predict(TEXTS)


def test_a_run_folder_opens_with_its_result(given: dict[str, Any], tmp_path: Path) -> None:
    made = tune("fake", SPLIT, out=tmp_path / "run", **given)
    model = TunedModel.load(tmp_path / "run")
    assert model.result == made.result
    assert model.backend.name == "fake"
    np.testing.assert_array_equal(model.log_proba(TEXTS), made.log_proba(TEXTS))
    (tmp_path / "run" / RESULT_NAME).write_text("{")
    with pytest.raises(RunError, match=RESULT_NAME):
        TunedModel.load(tmp_path / "run")


def test_a_run_opens_on_a_model_under_another_name(given: dict[str, Any], tmp_path: Path) -> None:
    made = tune("fake", SPLIT, out=tmp_path / "run", **given)
    model = TunedModel.load(tmp_path / "run", backend="fake")
    np.testing.assert_array_equal(model.log_proba(TEXTS), made.log_proba(TEXTS))
    with pytest.raises(FingerprintError):
        TunedModel.load(tmp_path / "run", backend="fake:other")
    with pytest.raises(ConfigError, match="an open backend, not a "):
        TunedModel.load(tmp_path / "run", backend=tmp_path)  # type: ignore[arg-type]


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not the folder of a finished run"):
        TunedModel.load(tmp_path)
    with pytest.raises(ArtifactError, match="not the folder of a finished run"):
        TunedModel.load(tmp_path / "nowhere")
