"""The demo data set: balanced, free of duplicates, learnable and not trivial."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations
from statistics import median

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

LABELS = {"billing", "delivery", "account", "technical", "sales"}
PER_CLASS = 40
Rows = list[dict[str, str]]


def read(part: str) -> Rows:
    path = files("blackbox_delta.data") / "support" / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@pytest.fixture(scope="module")
def train() -> Rows:
    return read("train")


@pytest.fixture(scope="module")
def test() -> Rows:
    return read("test")


@pytest.fixture(scope="module")
def both(train: Rows, test: Rows) -> Rows:
    return train + test


@pytest.mark.parametrize("part", ["train", "test"])
def test_each_part_is_balanced_and_shuffled(part: str) -> None:
    rows = read(part)
    assert all(set(row) == {"text", "label"} for row in rows)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, PER_CLASS)
    # Sorted by class, the first 40 rows would hold one label only.
    assert {row["label"] for row in rows[:PER_CLASS]} == LABELS


def test_lengths_vary_as_the_readme_says(both: Rows) -> None:
    lengths = [len(row["text"].split()) for row in both]
    assert min(lengths) == 4
    assert max(lengths) == 60
    assert 18 <= median(lengths) <= 22


def test_no_duplicates_or_near_duplicates_within_or_between_parts(both: Rows) -> None:
    vocabularies = [set(words(row["text"])) for row in both]
    closest = max(len(a & b) / len(a | b) for a, b in combinations(vocabularies, 2))
    assert closest < 0.5  # Jaccard similarity; a reworded template would be far above


def test_no_single_word_gives_a_class_away(both: Rows) -> None:
    of_word_and_class = Counter(
        (word, row["label"]) for row in both for word in set(words(row["text"]))
    )
    of_word = Counter(word for row in both for word in set(words(row["text"])))
    giveaways = [
        (word, label)
        for (word, label), hits in of_word_and_class.items()
        if hits / of_word[word] >= 0.9 and hits / (2 * PER_CLASS) >= 0.4
    ]
    assert giveaways == []


def test_texts_hold_no_contact_details(both: Rows) -> None:
    contact = re.compile(r"@|https?:|www\.|\d{6,}")
    assert [row["text"] for row in both if contact.search(row["text"])] == []


def test_bag_of_words_learns_it_but_does_not_solve_it(train: Rows, test: Rows) -> None:
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    accuracy = model.score([row["text"] for row in test], [row["label"] for row in test])
    assert 0.5 < accuracy < 0.97  # chance is 0.2
