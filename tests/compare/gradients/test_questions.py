from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from blackbox_delta.compare.contract import Trial
from blackbox_delta.compare.gradients.opening import open_causal
from blackbox_delta.compare.gradients.questions import put
from blackbox_delta.errors import DataError, ModelError, TemplateError, UnsupportedError
from blackbox_delta.types import Example

MakeTrial = Callable[..., Trial]


def with_train(trial: Trial, *examples: Example) -> Trial:
    return dataclasses.replace(trial, split=dataclasses.replace(trial.split, train=examples))


def test_prompts_are_the_rendered_templates(make_trial: MakeTrial) -> None:
    trial = make_trial()
    loaded = open_causal(trial.model)
    questions = put(trial, loaded, 0)
    assert loaded.tokenizer.decode(questions.train.prompts[0]) == (
        "Text: a fine film\nIn one word, it is"
    )
    assert loaded.tokenizer.decode(questions.choices[0]) == " terrible"  # labels are sorted
    assert questions.train.labels.tolist()[:2] == [1, 0]
    assert loaded.tokenizer.decode(questions.frame) == "Text: \nIn one word, it is"
    assert questions.train.tokens == sum(map(len, questions.train.prompts))


def test_long_texts_are_cut_and_the_template_kept(make_trial: MakeTrial) -> None:
    trial = make_trial()
    long = Example("a fine film " * 300, label="good")
    loaded = open_causal(trial.model)
    questions = put(with_train(trial, long, trial.split.train[1]), loaded, 10)
    room = 128 - 10 - max(map(len, questions.choices))
    assert room - 3 <= len(questions.train.prompts[0]) <= room
    assert loaded.tokenizer.decode(questions.train.prompts[0]).endswith("\nIn one word, it is")


def test_a_template_without_words_lends_a_label_word(make_trial: MakeTrial) -> None:
    trial = make_trial(template="{text} {label}")
    questions = put(trial, open_causal(trial.model), 0)
    assert questions.frame == questions.choices[0]


def test_one_class_is_refused(make_trial: MakeTrial) -> None:
    trial = make_trial()
    with pytest.raises(DataError, match="at least two"):
        put(with_train(trial, trial.split.train[0]), open_causal(trial.model), 0)


def test_a_template_of_pairs_needs_pairs(make_trial: MakeTrial) -> None:
    trial = make_trial(template="{text} and {text_pair}: {label}")
    with pytest.raises(TemplateError, match="single texts"):
        put(trial, open_causal(trial.model), 0)


def test_words_behind_the_answer_are_refused(make_trial: MakeTrial) -> None:
    trial = make_trial(template="{text} is {label}, is it not?")
    with pytest.raises(UnsupportedError, match="put {label} last"):
        put(trial, open_causal(trial.model), 0)


def test_a_masked_model_is_refused(folder: Path, tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="masked"):
        open_causal(str(tmp_path))


def test_a_model_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        open_causal(str(tmp_path / "nowhere"))
