from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.compare.contract import Trial
from blackbox_delta.compare.gradients import scoring
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import Questions, put
from blackbox_delta.compare.gradients.scoring import LabelScorer, cross_entropy
from blackbox_delta.problem import Reader
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import ScoreRequest, Vector

MakeTrial = Callable[..., Trial]
WHOLE = {"good": "good day", "bad": "good dull day"}  # the same first token: whole words count


def untrained(trial: Trial) -> tuple[Any, Questions, LabelScorer]:
    loaded = open_causal(trial.model)
    questions = put(trial, loaded, 0)
    return loaded.model, questions, LabelScorer(loaded.model, loaded.model, questions.choices)


def by_backend(trial: Trial) -> Vector:
    """What the local backend says of the same prompts, renormalised over the classes."""
    words = Verbalizer.build(["bad", "good"], trial.label_words)
    reader = Reader(Template.parse(trial.template), words)
    backend = LocalBackend(trial.model, device="cpu")
    scores = backend.score(ScoreRequest(reader.prompts(trial.split.train), reader.choices))
    backend.close()
    return np.asarray(log_softmax(scores.label_logprobs[0].astype(np.float64), axis=1))


def by_hand(model: Any, prompt: tuple[int, ...], choices: list[tuple[int, ...]]) -> Vector:
    """Each word read token by token, one sequence at a time, without padding."""
    scores = []
    for word in choices:
        read: tuple[int, ...] = ()
        total = 0.0
        for token in word:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + read])).logits[0, -1]
            total += float(torch.log_softmax(logits.double(), 0)[token])
            read += (token,)
        scores.append(total)
    return np.asarray(log_softmax(np.array(scores)))


@pytest.mark.parametrize("words", [{"good": "is", "bad": "it"}, WHOLE])
def test_the_untrained_model_answers_as_the_local_backend_does(
    make_trial: MakeTrial, words: Mapping[str, str]
) -> None:
    trial = make_trial(words=words)
    _, questions, scorer = untrained(trial)
    assert max(map(len, questions.choices)) == 1 or words is WHOLE
    np.testing.assert_allclose(scorer.read(questions.train.prompts), by_backend(trial), atol=1e-4)


def test_whole_words_count_where_first_tokens_are_the_same(make_trial: MakeTrial) -> None:
    model, questions, scorer = untrained(make_trial(words=WHOLE))
    assert len({len(word) for word in questions.choices}) == 2, "words of different lengths"
    expected = [by_hand(model, prompt, questions.choices) for prompt in questions.test]
    np.testing.assert_allclose(scorer.read(questions.test), expected, atol=1e-4)


def test_first_tokens_count_alone_where_they_differ(make_trial: MakeTrial) -> None:
    model, questions, scorer = untrained(make_trial(words={"good": "fine day", "bad": "dull day"}))
    assert min(map(len, questions.choices)) > 1
    firsts = [word[:1] for word in questions.choices]
    expected = [by_hand(model, prompt, firsts) for prompt in questions.test]
    np.testing.assert_allclose(scorer.read(questions.test), expected, atol=1e-4)


def test_an_answer_does_not_depend_on_the_company_it_is_read_in(make_trial: MakeTrial) -> None:
    _, questions, scorer = untrained(make_trial(words=WHOLE))
    together = scorer.read(questions.train.prompts)
    alone = [scorer.read([prompt])[0] for prompt in questions.train.prompts]
    np.testing.assert_allclose(together, alone, atol=1e-4)


@given(lengths=st.lists(st.integers(1, 5000), max_size=40), size=st.integers(1, 8))
def test_pieces_hold_every_prompt_once_and_never_too_much(
    scorer_of_one_form: LabelScorer, lengths: list[int], size: int
) -> None:
    prompts = [(0,) * length for length in lengths]
    pieces = scorer_of_one_form.pieces(prompts, size)
    assert sorted(index for piece in pieces for index in piece) == list(range(len(prompts)))
    for piece in pieces:
        padded = len(piece) * max(lengths[index] for index in piece)
        assert len(piece) <= size
        assert len(piece) == 1 or padded <= scoring.TOKENS_AT_ONCE


@pytest.fixture(scope="module")
def scorer_of_one_form(make_trial: MakeTrial) -> LabelScorer:
    return untrained(make_trial())[2]


def test_cross_entropy_is_the_mean_surprise() -> None:
    log_proba = np.log([[0.5, 0.5], [0.25, 0.75]])
    expected = -(np.log(0.5) + np.log(0.25)) / 2
    assert cross_entropy(log_proba, np.array([1, 0])) == pytest.approx(expected)
