"""What ``local_throughput.py`` evaluates: texts and label words in the shape of known tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blackbox_delta.tasks import load_task
from blackbox_delta.types import IntArray

SEED = 0


@dataclass(frozen=True)
class Workload:
    """What every contender evaluates.

    Attributes:
        texts: n texts.
        labels: (n,) positions among the label words.
        words: c label words, each a single token, with the space before it.
        candidates: λ.
    """

    texts: Sequence[str]
    labels: IntArray
    words: Sequence[str]
    candidates: int


@dataclass(frozen=True)
class Shape:
    """What a task looks like to a model.

    Attributes:
        title: Its name.
        examples: n in a 16-shot split.
        words: Label words, single tokens.
        aim: How many times as fast as (a) this package is meant to be.
        tokens: Mean, standard deviation, smallest and largest length of its texts.
    """

    title: str
    examples: int
    words: tuple[str, ...]
    aim: float
    tokens: tuple[float, float, int, int]


SHAPES = {
    "sst2": Shape("SST-2", 32, (" negative", " positive"), 4, (21.7, 11.0, 3, 55)),
    "agnews": Shape(
        "AG News", 64, (" World", " Sports", " Business", " Technology"), 8, (56.1, 18.9, 25, 130)
    ),
}
#: Common words of one token each, for texts of a given length.
COMMON = ["the", "film", "is", "a", "story", "about", "people", "who", "find", "their", "way"]


def make_workload(
    name: str, data: Path, candidates: int, examples: int | None
) -> tuple[Workload, str]:
    """The workload of a shape, and whether its texts are real or generated."""
    shape = SHAPES[name]
    texts, origin = _texts(name, shape, examples or shape.examples, data)
    labels = np.arange(len(texts)) % len(shape.words)
    return Workload(texts, labels, shape.words, candidates), origin


def _texts(name: str, shape: Shape, count: int, data: Path) -> tuple[list[str], str]:
    """``count`` real texts where there are any, else made-up ones of the same lengths."""
    rng = np.random.default_rng(SEED)
    if (data / name).is_dir():
        pool = sorted({example.text.strip() for example in load_task(data / name).train})
        return [pool[index] for index in rng.choice(len(pool), count, replace=False)], "real"
    mean, deviation, low, high = shape.tokens
    lengths = np.clip(rng.normal(mean, deviation, count).round().astype(int), low, high)
    return [" ".join(rng.choice(COMMON, length)) for length in lengths], "generated"
