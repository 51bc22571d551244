from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import film_trial, ignore
from scipy.special import log_softmax

from blackbox_delta import tune
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.compare.output_side import OutputSide, Untuned
from blackbox_delta.errors import TemplateError
from blackbox_delta.tasks import DEFAULT_STARTS, Template
from blackbox_delta.types import Capabilities, Example, ScoreRequest, Scores, Sink, Vector

WORDS = (" great", " terrible")


def asked(backend: FakeBackend, template: str, examples: tuple[Example, ...]) -> Vector:
    """(n, 2) label scores, asked directly."""
    prompts = [Template.parse(template).render(each, ("great", "terrible")) for each in examples]
    return backend.score(ScoreRequest(prompts, WORDS)).label_logprobs[0].astype(np.float64)


def test_untuned_says_what_the_model_says(tmp_path: Path) -> None:
    trial = film_trial(tmp_path)
    found = Untuned().run(trial, ignore)
    expected = asked(FakeBackend(), trial.template, trial.split.test)
    np.testing.assert_allclose(found.log_proba, log_softmax(expected, axis=1))
    assert (found.calls, found.queries, found.tokens, found.seconds) == (0, 0, 0, 0)
    assert found.test_queries == 1


def test_calibrated_takes_off_the_training_examples_means(tmp_path: Path) -> None:
    trial = film_trial(tmp_path)
    found = OutputSide("calibrated", "calibrated").run(trial, ignore)
    train = asked(FakeBackend(), trial.template, trial.split.train)
    test = asked(FakeBackend(), trial.template, trial.split.test)
    np.testing.assert_allclose(found.log_proba, log_softmax(test - train.mean(axis=0), axis=1))
    np.testing.assert_allclose(
        found.train_log_proba, log_softmax(train - train.mean(axis=0), axis=1)
    )
    assert (found.calls, found.queries) == (1, 8)


def test_dect_takes_one_query_an_example_and_keeps_prototypes(tmp_path: Path) -> None:
    backend = FakeBackend()
    trial = film_trial(tmp_path, backend)
    found = OutputSide("dect", "prototypes").run(trial, ignore)
    assert backend.queries == len(trial.split.train) + len(trial.split.test)
    assert (found.calls, found.queries, found.test_queries) == (1, 8, 1)
    assert found.log_proba.shape == (30, 2)
    calibrated = OutputSide("calibrated", "calibrated").run(trial, ignore)
    assert found.artifact_bytes > calibrated.artifact_bytes


class InTurns(FakeBackend):
    """Answers turns of a chat."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, chat=True)


class Deaf(FakeBackend):
    """Its answers have nothing to do with the text behind one of the two starts."""

    def __init__(self, words: str) -> None:
        super().__init__(accepts=())
        self._words = words

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores = super().score(request, sink)
        if self._words not in repr(request.prompts[0]):
            return scores
        return replace(scores, label_logprobs=np.full_like(scores.label_logprobs, -1.0))


@pytest.mark.parametrize("deaf", [0, 1])
def test_a_start_is_chosen_by_the_held_out_loss(deaf: int, tmp_path: Path) -> None:
    """It is the head behind the words that a search begins with."""
    trial = film_trial(tmp_path, Deaf(repr(DEFAULT_STARTS[deaf])[1:-1]))
    words = {"label_words": trial.label_words, "head": "calibrated"}
    searched = tune(trial.backend, trial.split, recipe="search", budget=4, **words)
    found = OutputSide("start-calibrated", "calibrated", starts=True).run(trial, ignore)
    source = f"Text: {{text}}{DEFAULT_STARTS[1 - deaf]} {{label}}"
    assert found.details == {"template": source} == {"template": searched.result["template"]}
    assert (found.calls, found.queries, found.test_queries) == (2, 16, 1)
    alone = OutputSide("head-calibrated", "calibrated")
    expected = alone.run(replace(trial, template=source), ignore)
    np.testing.assert_array_equal(found.log_proba, expected.log_proba)
    np.testing.assert_array_equal(found.train_log_proba, expected.train_log_proba)
    assert alone.settings == {"head": "calibrated"}


def test_in_a_chat_there_is_one_start(tmp_path: Path) -> None:
    trial = film_trial(tmp_path, InTurns())
    found = OutputSide("start-calibrated", "calibrated", starts=True).run(trial, ignore)
    assert found.calls == 1


def test_a_template_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    trial = replace(film_trial(tmp_path), template="{text} {text_pair} {label}")
    with pytest.raises(TemplateError):
        Untuned().run(trial, ignore)


def test_the_steps_tell_how_far_it_is(tmp_path: Path) -> None:
    steps: list[tuple[float, str]] = []
    Untuned().run(film_trial(tmp_path), lambda share, note: steps.append((share, note)))
    assert steps == [(1.0, "training: 8 of 8 examples"), (1.0, "test: 30 of 30 examples")]
