"""Few-shot splits: k examples per class for training and k more for development."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from operator import index

import numpy as np

from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.tasks.data import TaskData
from blackbox_delta.tasks.examples import said_by
from blackbox_delta.tasks.tables import some
from blackbox_delta.types import Example


@dataclass(frozen=True)
class FewShotSplit:
    """What a run sees of a data set.

    Attributes:
        train: c·k examples, class-balanced, the classes taking turns (a, b, c, a, b, c, …).
        dev: As many others, likewise; fewer where the data's own development part has fewer, none
            where all examples are trained on.
        test: The test part or a sample of it, in its own order; never seen by the search.
        shots: k; where the classes differ in size, that of the smallest.
        seed: What it was drawn with.
        test_seed: What a sample of the test part was drawn with; ``None`` for the same.

    Raises:
        ConfigError: ``shots``, ``seed`` or ``test_seed`` is no whole number.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    shots: int
    seed: int
    test_seed: int | None = None

    def __post_init__(self) -> None:
        # numpy's numbers are taken as well, but a run's files hold Python's.
        for name in ("shots", "seed", "test_seed"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value))

    @property
    def known_in_test(self) -> int:
        """Test examples that are training or development examples too, white space apart."""
        known = {said_by(example) for example in (*self.train, *self.dev)}
        return sum(said_by(example) in known for example in self.test)

    def digest(self) -> str:
        """SHA-256 over the examples, in hexadecimal."""
        parts = (self.train, self.dev, self.test)
        content = [[(e.text, e.text_pair, e.label) for e in part] for part in parts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def draw_split(
    data: TaskData,
    shots: int,
    seed: int,
    max_test: int | None = None,
    *,
    development: bool = True,
) -> FewShotSplit:
    """Draws k examples per class for training and another k for development.

    No text is in both. A text that occurs several times counts once, for the class of its first
    occurrence. What is drawn for a class depends on the seed and on that class's examples only.

    Args:
        data: The labelled set. If it has a development part, development examples come from
            there: k per class, or all of the class where there are fewer.
        shots: k, at least 1.
        seed: At least 0.
        max_test: The largest number of test examples to keep; a larger test part is sampled.
        development: Whether any are drawn for development; the others are the same without.

    Raises:
        ConfigError: ``shots``, ``seed`` or ``max_test`` is out of range.
        DataError: A class has too few different examples.
    """
    _check_settings(shots, seed, max_test)
    pool = _by_class(data.train, data.labels)
    _check_sizes(pool, shots, once=data.dev is not None or not development)
    drawn = {label: _shuffled(pool[label], seed, "train", label) for label in data.labels}
    train = {label: examples[:shots] for label, examples in drawn.items()}
    dev: dict[str, list[Example]] = {}
    if development and data.dev is not None:
        dev = _from_own_dev(data.dev, train, shots, seed)
    elif development:
        dev = {label: examples[shots : 2 * shots] for label, examples in drawn.items()}
    return FewShotSplit(
        train=_take_turns(train),
        dev=_take_turns(dev),
        test=sample_test(data.test, seed, max_test),
        shots=shots,
        seed=seed,
    )


def train_on_all(data: TaskData, seed: int) -> FewShotSplit:
    """Uses every example for training, for recipes that look at no development examples.

    A text that occurs several times counts once, for the class of its first occurrence.

    Args:
        data: The labelled set; its test part is kept whole.
        seed: At least 0.

    Raises:
        ConfigError: ``seed`` is out of range.
        DataError: A class has no example of its own.
    """
    _check_settings(1, seed, None)
    pool = _by_class(data.train, data.labels)
    if empty := [label for label, examples in pool.items() if not examples]:
        raise DataError(
            f"class '{empty[0]}' has no text of its own: each of its texts comes with another "
            "label before, and a text counts once. Give each text one label"
        )
    train = {label: _shuffled(examples, seed, "train", label) for label, examples in pool.items()}
    return FewShotSplit(
        train=_take_turns(train),
        dev=(),
        test=data.test,
        shots=min(len(examples) for examples in train.values()),
        seed=seed,
    )


def split_by_share(data: TaskData, dev_share: float, seed: int) -> FewShotSplit:
    """Uses every example: a share of each class for development, the rest for training.

    Each side gets at least one example of each class; shares are rounded in favour of training.
    No text is in both. A text that occurs several times counts once, for the class of its first
    occurrence.

    Args:
        data: The labelled set; its pool is split, its test part is kept whole.
        dev_share: More than 0 and less than 1.
        seed: At least 0.

    Raises:
        ConfigError: ``dev_share`` or ``seed`` is out of range.
        DataError: A class has only one example, or the data has a development part already.
    """
    if not 0 < dev_share < 1:
        raise ConfigError(
            f"the share for development must be more than 0 and less than 1, not {dev_share}"
        )
    if data.dev is not None:
        raise DataError(f"{data.name} has a development part already, so nothing is to be split")
    _check_settings(1, seed, None)
    train, dev = {}, {}
    for label, examples in _by_class(data.train, data.labels).items():
        if len(examples) < 2:
            raise DataError(
                f"too few different examples of class '{label}': {len(examples)}, and 2 are needed "
                "(1 for training, 1 for development). Add examples, or leave the class out"
            )
        drawn = _shuffled(examples, seed, "train", label)
        count = min(max(int(dev_share * len(drawn)), 1), len(drawn) - 1)
        train[label], dev[label] = drawn[count:], drawn[:count]
    return FewShotSplit(
        train=_take_turns(train),
        dev=_take_turns(dev),
        test=data.test,
        shots=min(len(examples) for examples in train.values()),
        seed=seed,
    )


def whole(name: str, value: object) -> int:
    """A whole number as Python's own, numpy's too.

    Raises:
        ConfigError: It is none; ``name`` says what it is.
    """
    try:
        return int(index(value))  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, not {value!r}") from None


def _check_settings(shots: int, seed: int, max_test: int | None) -> None:
    for name, value in (("shots", shots), ("seed", seed), ("max_test", max_test)):
        if value is not None:
            whole(name, value)
    if shots < 1:
        raise ConfigError(f"shots must be at least 1, not {shots}")
    if seed < 0:
        raise ConfigError(f"the seed must be at least 0, not {seed}")
    if max_test is not None and max_test < 1:
        raise ConfigError(f"the number of test examples must be at least 1, not {max_test}")


def _by_class(examples: Iterable[Example], labels: Sequence[str]) -> dict[str, list[Example]]:
    """The different examples of each class, in their order."""
    first: dict[tuple[str, str], Example] = {}
    for example in examples:
        first.setdefault(said_by(example), example)
    return {
        label: [example for example in first.values() if example.label == label] for label in labels
    }


def _check_sizes(pool: Mapping[str, Sequence[Example]], shots: int, *, once: bool) -> None:
    """With ``once``, k examples of a class do; else k more are needed for development."""
    needed = shots if once else 2 * shots
    short = [
        f"class '{label}' has {len(examples)}"
        for label, examples in pool.items()
        if len(examples) < needed
    ]
    if not short:
        return
    smallest = min(len(examples) for examples in pool.values())
    largest = smallest if once else smallest // 2
    use = f"{shots} for training" if once else f"{shots} for training, {shots} for development"
    advice = (
        f"The largest --shots that works is {largest}"
        if largest
        else "Not even --shots 1 works: add examples"
    )
    raise DataError(
        f"too few different examples: {some(short)}, and {needed} are needed ({use}). {advice}"
    )


def _from_own_dev(
    examples: Iterable[Example], train: Mapping[str, Sequence[Example]], shots: int, seed: int
) -> dict[str, list[Example]]:
    taken = {said_by(example) for example in chain.from_iterable(train.values())}
    free = _by_class((each for each in examples if said_by(each) not in taken), list(train))
    for label, pool in free.items():
        if not pool:
            raise DataError(
                f"the development part has no example of class '{label}' that is not among the "
                "training examples. Add one, or leave the development part out"
            )
    return {label: _shuffled(pool, seed, "dev", label)[:shots] for label, pool in free.items()}


def _generator(seed: int, *names: str) -> np.random.Generator:
    # hash() differs between processes; SHA-256 does not. A generator of its own for
    # each class keeps a draw the same when other classes grow.
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _shuffled(examples: Sequence[Example], seed: int, part: str, label: str) -> list[Example]:
    order = _generator(seed, part, label).permutation(len(examples))
    return [examples[index] for index in order]


def _take_turns(groups: Mapping[str, Sequence[Example]]) -> tuple[Example, ...]:
    turns = zip_longest(*groups.values())
    return tuple(each for each in chain.from_iterable(turns) if each is not None)


def sample_test(examples: tuple[Example, ...], seed: int, limit: int | None) -> tuple[Example, ...]:
    """At most ``limit`` of the examples, drawn by seed, in their own order."""
    if limit is None or len(examples) <= limit:
        return examples
    chosen = _generator(seed, "test").choice(len(examples), size=limit, replace=False)
    return tuple(examples[index] for index in np.sort(chosen))
