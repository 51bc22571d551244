from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comparing import film_trial, ignore
from scipy.special import log_softmax

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.compare.contract import Trial
from blackbox_delta.compare.in_context import InContext
from blackbox_delta.errors import DataError
from blackbox_delta.problem import Reader
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import Example, Prompt, ScoreRequest, Scores, Sink, Words


class Recording(FakeBackend):
    """Remembers what it was asked, and said."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Prompt, np.ndarray]] = []

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        scores = super().score(request, sink)
        self.asked += zip(request.prompts, scores.label_logprobs[0].astype(float), strict=True)
        return scores


def text_of(prompt: Prompt) -> str:
    return "".join(each.text for each in prompt.segments if isinstance(each, Words))


def demonstrations(trial: Trial, backend: Recording) -> list[Example]:
    """The training examples that stand before every test example, in their order."""
    prompt = text_of(backend.asked[-1][0])
    shown = [each for each in trial.split.train if f"{each.text}\n" in prompt]
    return sorted(shown, key=lambda each: prompt.index(each.text))


def test_demonstrations_read_as_the_template_with_its_answer() -> None:
    reader = Reader(
        Template.parse("Text: {text}\nIt is one of {options}: {label}"),
        Verbalizer(("neg", "pos"), ("bad", "good")),
    )
    told = reader.demonstrating(
        [Example("dull {so {{far}}", label="neg"), Example("joy", None, "pos")]
    )
    [prompt] = told.prompts([Example("and {this}?")])
    assert text_of(prompt) == (
        "Text: dull {so {{far}}\nIt is one of bad, good: bad\n\n"
        "Text: joy\nIt is one of bad, good: good\n\n"
        "Text: and {this}?\nIt is one of bad, good:"
    )
    assert told.choices == (" bad", " good")


def test_one_example_of_each_class_stands_before_every_text(tmp_path: Path) -> None:
    backend = Recording()
    trial = film_trial(tmp_path, backend)
    found = InContext().run(trial, ignore)
    shown = demonstrations(trial, backend)
    assert sorted(str(each.label) for each in shown) == ["great", "terrible"]
    assert found.details["demonstrations"] == 2
    asked = [text_of(prompt) for prompt, _ in backend.asked]
    assert len(asked) == 8 + 30
    filled = "".join(f"Text: {e.text}\nIn one word, it is {e.label}\n\n" for e in shown)
    for text, example in zip(asked, (*trial.split.train, *trial.split.test), strict=True):
        assert text == f"{filled}Text: {example.text}\nIn one word, it is"
    assert (found.calls, found.queries, found.test_queries) == (1, 8, 1)


def test_scores_are_centred_on_the_examples_that_are_not_shown(tmp_path: Path) -> None:
    backend = Recording()
    trial = film_trial(tmp_path, backend)
    found = InContext().run(trial, ignore)
    shown = demonstrations(trial, backend)
    scores = np.array([row for _, row in backend.asked])
    others = [each not in shown for each in trial.split.train]
    offset = scores[:8][others].mean(axis=0)
    assert found.details["centred_on"] == 6
    np.testing.assert_allclose(found.log_proba, log_softmax(scores[8:] - offset, axis=1), rtol=1e-6)


def test_the_seed_chooses(tmp_path: Path) -> None:
    chosen = set()
    for seed in range(6):
        backend = Recording()
        trial = film_trial(tmp_path, backend)
        trial = Trial(**{**vars(trial), "seed": seed})
        InContext().run(trial, ignore)
        chosen.add(tuple(each.text for each in demonstrations(trial, backend)))
    assert len(chosen) > 3


def test_as_many_are_shown_as_fit(tmp_path: Path) -> None:
    backend = Recording()
    trial = film_trial(tmp_path, backend)
    one = InContext(max_tokens=20).run(trial, ignore)
    assert one.details["demonstrations"] == 1
    assert len(demonstrations(trial, backend)) == 1
    assert one.details["centred_on"] == 7
    with pytest.raises(DataError, match="5 tokens"):
        InContext(max_tokens=5).run(trial, ignore)


def test_a_single_example_a_class_is_shown_and_centred_on(tmp_path: Path) -> None:
    found = InContext().run(film_trial(tmp_path, shots=1), ignore)
    assert found.details == {"demonstrations": 2, "centred_on": 2}
    assert np.isfinite(found.log_proba).all()


def test_what_is_kept_holds_the_demonstrations(tmp_path: Path) -> None:
    both = InContext().run(film_trial(tmp_path), ignore)
    one = InContext(max_tokens=20).run(film_trial(tmp_path), ignore)
    assert both.artifact_bytes > one.artifact_bytes + 30
