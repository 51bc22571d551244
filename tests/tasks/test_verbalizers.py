"""Label words: readable by default, never empty, never shared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import DataError, VerbalizerError
from blackbox_delta.tasks import Verbalizer, parse_words, readable
from blackbox_delta.types import Example

LABELS = ("neg", "pos")


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("positive", "positive"),
        ("World", "World"),
        ("Sci/Tech", "Sci/Tech"),
        ("Science and technology", "Science and technology"),
        ("ABBR", "ABBR"),
        ("not_entailment", "not entailment"),
        ("not-entailment", "not entailment"),
        ("very-not-good", "very not good"),
        ("e-mail", "e-mail"),
        ("Sci-Fi", "Sci-Fi"),
        ("EducationalInstitution", "educational institution"),
        ("meanOfTransportation", "mean of transportation"),
        ("iPhone", "iPhone"),
        ("HTTPServer", "HTTPServer"),
        ("SCREAMING_SNAKE", "SCREAMING SNAKE"),
        ("_leading__twice_", "leading twice"),
        ("_", "_"),
        ("0", "0"),
    ],
)
def test_label_names_become_readable(label: str, word: str) -> None:
    assert readable(label) == word


def test_the_default_words_are_the_label_names() -> None:
    assert Verbalizer.build(["entailment", "not_entailment"]) == Verbalizer(
        ("entailment", "not_entailment"), ("entailment", "not entailment")
    )


@pytest.mark.parametrize("words", [{"pos": " great", "neg": "not good "}, ["not good", "great"]])
def test_words_by_name_and_in_order(words: dict[str, str] | list[str]) -> None:
    verbalizer = Verbalizer.build(LABELS, words)
    assert verbalizer.words == ("not good", "great")
    assert verbalizer.choices(" ") == (" not good", " great")
    assert verbalizer.choices("") == ("not good", "great")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pos": "great", "neg": ""}, "the word for the label 'neg' is empty"),
        (["bad", " "], "the word for the label 'pos' is empty"),
        (["bad", None], "the word for the label 'pos' is empty or no string"),
        (["same", " same"], "'neg' and 'pos' have the same word 'same'"),
        ({"pos": "great"}, "no word for: neg"),
        ({"pos": "great", "neg": "bad", "mixed": "so so"}, "no such label as: mixed"),
        ({"positive": "great", "neg": "bad"}, "no word for: pos; no such label as: positive"),
        (["bad"], r"1 label words for 2 labels \(neg, pos\)"),
        (["bad", "great", "more"], "3 label words for 2 labels"),
        ("bad", "not the single string 'bad'"),
    ],
)
def test_bad_words_are_refused(words: object, message: str) -> None:
    with pytest.raises(VerbalizerError, match=message):
        Verbalizer.build(LABELS, words)  # type: ignore[arg-type]


def test_default_words_that_collide_are_refused() -> None:
    with pytest.raises(VerbalizerError, match="'a_b' and 'a b' have the same word 'a b'"):
        Verbalizer.build(["a_b", "a b"])


def test_labels_become_positions() -> None:
    verbalizer = Verbalizer.build(LABELS)
    assert verbalizer.index("pos") == 1
    encoded = verbalizer.encode([Example("a", None, "pos"), "neg", Example("b", None, "pos")])
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [1, 0, 1]
    assert verbalizer.encode([]).shape == (0,)


def test_a_label_that_is_unknown_or_missing_is_refused() -> None:
    with pytest.raises(DataError, match="'mixed' is unknown; the labels are: neg, pos"):
        Verbalizer.build(LABELS).index("mixed")
    with pytest.raises(DataError, match="an example has no label; the labels are: neg, pos"):
        Verbalizer.build(LABELS).encode([Example("a")])


def test_words_from_the_command_line() -> None:
    assert parse_words("pos=great, neg = not = good ") == {"pos": "great", "neg": "not = good"}
    assert parse_words("pos=") == {"pos": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("pos", "cannot read 'pos'"),
        ("pos=great,", "cannot read ''"),
        ("=great", "cannot read '=great'"),
        ("pos=great,pos=good", "'pos' has two words"),
    ],
)
def test_unreadable_words_from_the_command_line_are_refused(text: str, message: str) -> None:
    with pytest.raises(VerbalizerError, match=message):
        parse_words(text)


names = st.text(st.characters(exclude_characters=",=", codec="utf-8")).map(str.strip).filter(bool)


@given(st.dictionaries(names, names, min_size=2))
def test_command_line_words_come_back(words: dict[str, str]) -> None:
    assert parse_words(",".join(f"{label}={word}" for label, word in words.items())) == words


@given(names)
def test_a_readable_label_is_a_fit_word(label: str) -> None:
    word = readable(label)
    assert word.strip() == word != ""
