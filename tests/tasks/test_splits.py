"""Few-shot splits are balanced, disjoint, seeded, and each class is drawn on its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.tasks import (
    FewShotSplit,
    TaskData,
    draw_split,
    split_by_share,
    task_from_lists,
)
from blackbox_delta.types import Example


def examples(label: str, count: int, stem: str = "text") -> list[Example]:
    return [Example(f"{stem} {label} {index}", None, label) for index in range(count)]


def task(
    sizes: dict[str, int],
    dev: dict[str, int] | None = None,
    test: int = 0,
) -> TaskData:
    own_dev = dev and tuple(e for label, n in dev.items() for e in examples(label, n, "dev"))
    return TaskData(
        "toy",
        tuple(sorted(sizes)),
        tuple(e for label, n in sizes.items() for e in examples(label, n)),
        own_dev or None,
        tuple(examples("a", test, "test")),
    )


@given(
    sizes=st.dictionaries(st.sampled_from("abcde"), st.integers(6, 20), min_size=2),
    repeats=st.integers(1, 3),
    shots=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_balanced_disjoint_and_from_the_pool(
    sizes: dict[str, int], repeats: int, shots: int, seed: int
) -> None:
    single = task(sizes)
    data = TaskData("toy", single.labels, single.train * repeats, None, ())
    split = draw_split(data, shots, seed)
    for part in (split.train, split.dev):
        assert Counter(example.label for example in part) == dict.fromkeys(sizes, shots)
        # The classes take turns, so that any prefix is as balanced as it can be.
        assert [example.label for example in part] == list(data.labels) * shots
    drawn = [example.text for example in split.train + split.dev]
    assert len(set(drawn)) == len(drawn)
    assert set(split.train + split.dev) <= set(data.train)
    assert split == draw_split(data, shots, seed)


def test_the_draw_depends_on_the_seed() -> None:
    data = task({"a": 50, "b": 50}, test=100)
    splits = [draw_split(data, 8, seed, max_test=10) for seed in range(20)]
    for part in ("train", "dev", "test"):
        assert len({getattr(split, part) for split in splits}) == 20


def test_the_draw_is_the_same_on_every_machine() -> None:
    split = draw_split(task({"a": 40, "b": 40}, test=50), 2, 13, max_test=3)
    assert [example.text for example in split.train] == [
        "text a 21",
        "text b 33",
        "text a 30",
        "text b 3",
    ]
    assert [example.text for example in split.dev] == [
        "text a 28",
        "text b 37",
        "text a 26",
        "text b 26",
    ]
    assert [example.text for example in split.test] == ["test a 14", "test a 15", "test a 42"]


def test_a_class_is_drawn_the_same_whatever_the_others_are() -> None:
    def of_class_a(sizes: dict[str, int]) -> list[Example]:
        split = draw_split(task(sizes), 4, 21)
        return [example for example in split.train + split.dev if example.label == "a"]

    assert of_class_a({"a": 30, "b": 10}) == of_class_a({"a": 30, "b": 99, "c": 12})


def test_classes_of_one_size_are_drawn_at_different_places() -> None:
    split = draw_split(task({"a": 100, "b": 100}), 10, 0)
    places = {
        label: [example.text.split()[-1] for example in split.train if example.label == label]
        for label in "ab"
    }
    assert places["a"] != places["b"]


def test_every_example_is_drawn_equally_often() -> None:
    data = task({"a": 5, "b": 5})
    counts = Counter(e.text for seed in range(2000) for e in draw_split(data, 1, seed).train)
    # 400 expected, standard deviation 18; the seeds are fixed.
    assert len(counts) == 10
    assert all(320 < count < 480 for count in counts.values())


# --------------------------------------------------------------------------- duplicates


@given(st.integers(0, 500))
def test_a_text_under_two_labels_or_with_other_spaces_is_never_on_both_sides(seed: int) -> None:
    train = [
        Example(f"{space}text {index}", None, label)
        for label in "ab"
        for space in ("", " ")
        for index in range(4)
    ]
    train += examples("b", 2)
    data = TaskData("toy", ("a", "b"), tuple(train), None, ())
    split = draw_split(data, 1, seed)
    seen = [example.text.strip() for example in split.train + split.dev]
    assert len(set(seen)) == len(seen)


def test_pairs_that_share_one_text_are_different_examples() -> None:
    train = [Example("same", f"{label} {index}", label) for label in "ab" for index in range(4)]
    split = draw_split(TaskData("toy", ("a", "b"), tuple(train), None, ()), 2, 0)
    assert set(split.train + split.dev) == set(train)


def test_repeated_texts_do_not_count_as_usable() -> None:
    train = examples("a", 8) + [Example("same", None, "b")] * 8
    with pytest.raises(DataError, match=r"class 'b' has 1, and 4 are needed.*Not even --shots 1"):
        draw_split(TaskData("toy", ("a", "b"), tuple(train), None, ()), 2, 0)


# ------------------------------------------------------------------- a part of their own


def test_development_examples_come_from_their_own_part() -> None:
    split = draw_split(task({"a": 5, "b": 4}, dev={"a": 9, "b": 2}), 4, 0)
    assert len(split.train) == 8
    assert Counter(example.label for example in split.dev) == {"a": 4, "b": 2}
    assert all(example.text.startswith("dev") for example in split.dev)
    assert [example.label for example in split.dev] == ["a", "b", "a", "b", "a", "a"]


def test_a_development_part_that_repeats_the_pool_stays_disjoint() -> None:
    pool = task({"a": 6, "b": 6})
    split = draw_split(TaskData("toy", pool.labels, pool.train, pool.train, ()), 3, 0)
    assert set(split.train + split.dev) == set(pool.train)
    with pytest.raises(DataError, match="no example of class 'a' that is not among"):
        draw_split(TaskData("toy", pool.labels, pool.train, pool.train, ()), 6, 0)


def test_a_class_that_the_development_part_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="no example of class 'b'"):
        draw_split(task({"a": 5, "b": 5}, dev={"a": 5}), 2, 0)


# ---------------------------------------------------------------------------- the test part


@given(st.integers(1, 40), st.integers(0, 1000))
def test_the_test_sample_keeps_its_order(limit: int, seed: int) -> None:
    data = task({"a": 4, "b": 4}, test=30)
    sample = draw_split(data, 1, seed, max_test=limit).test
    assert len(sample) == min(limit, 30)
    places = [data.test.index(example) for example in sample]
    assert places == sorted(set(places))


def test_the_test_part_is_kept_as_it_is() -> None:
    pool = task({"a": 4, "b": 4})
    data = TaskData("toy", pool.labels, pool.train, None, pool.train[:2] * 2)
    assert draw_split(data, 2, 0).test == data.test


# --------------------------------------------------------------------------------- errors


def test_classes_that_are_too_small_are_named_with_what_would_work() -> None:
    message = (
        r"class 'b' has 7, class 'c' has 5, and 8 are needed \(4 for training, 4 for "
        r"development\)\. The largest --shots that works is 2"
    )
    data = task({"a": 9, "b": 7, "c": 5})
    with pytest.raises(DataError, match=message):
        draw_split(data, 4, 0)
    assert draw_split(data, 2, 0)


def test_with_a_development_part_only_the_training_examples_count() -> None:
    data = task({"a": 9, "b": 5}, dev={"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"'b' has 5, and 6 are needed .* that works is 5"):
        draw_split(data, 6, 0)
    assert len(draw_split(data, 5, 0).dev) == 2


@pytest.mark.parametrize(
    ("shots", "seed", "max_test", "message"),
    [(0, 0, None, "shots"), (1, -1, None, "seed"), (1, 0, 0, "test examples")],
)
def test_settings_out_of_range_are_refused(
    shots: int, seed: int, max_test: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_split(task({"a": 4, "b": 4}), shots, seed, max_test)


@given(
    sizes=st.dictionaries(st.sampled_from("abcde"), st.integers(2, 20), min_size=2),
    repeats=st.integers(1, 3),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**40),
)
def test_a_split_by_share_uses_every_example_once(
    sizes: dict[str, int], repeats: int, share: float, seed: int
) -> None:
    single = task(sizes, test=3)
    data = TaskData("toy", single.labels, single.train * repeats, None, single.test)
    split = split_by_share(data, share, seed)
    assert Counter(split.train + split.dev) == Counter(single.train)
    for label, size in sizes.items():
        dev = sum(example.label == label for example in split.dev)
        assert 1 <= dev <= size - 1
        assert dev <= max(1, share * size)
        assert dev > share * size - 1 or dev == size - 1
    assert split.shots == min(Counter(example.label for example in split.train).values())
    assert split.test == data.test
    assert split == split_by_share(data, share, seed)


def test_a_split_by_share_depends_on_the_seed() -> None:
    data = task({"a": 9, "b": 30})
    assert len({split_by_share(data, 0.5, seed).dev for seed in range(20)}) == 20


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_is_more_than_nothing_and_less_than_all(share: float) -> None:
    with pytest.raises(ConfigError, match="more than 0 and less than 1"):
        split_by_share(task({"a": 4, "b": 4}), share, 0)


def test_what_cannot_be_split_by_share() -> None:
    with pytest.raises(DataError, match="class 'b': 1, and 2 are needed"):
        split_by_share(task({"a": 4, "b": 1}), 0.5, 0)
    with pytest.raises(DataError, match="development part already"):
        split_by_share(task({"a": 4, "b": 4}, dev={"a": 1, "b": 1}), 0.5, 0)
    with pytest.raises(ConfigError, match="seed"):
        split_by_share(task({"a": 4, "b": 4}), 0.5, -1)


def test_without_development_examples_the_others_stay_and_half_as_many_do() -> None:
    pool = task({"a": 8, "b": 9})
    with_dev, without = draw_split(pool, 4, 7), draw_split(pool, 4, 7, development=False)
    assert without.dev == ()
    assert (without.train, without.test, without.shots) == (with_dev.train, with_dev.test, 4)
    assert len(draw_split(pool, 8, 7, development=False).train) == 16
    with pytest.raises(DataError, match=r"class 'a' has 8, and 9 are needed \(9 for training\)"):
        draw_split(pool, 9, 7, development=False)


def test_test_examples_that_were_learned_from_are_counted() -> None:
    data = task({"a": 8, "b": 8}, test=5)
    split = draw_split(data, 2, seed=1)
    assert split.known_in_test == 0
    repeated = tuple(Example(f" {each.text}\n", None, "a") for each in (*split.train, *split.dev))
    assert replace(split, test=(*split.test, *repeated)).known_in_test == len(repeated) == 8
    others = tuple(Example(each.text, "second", "a") for each in split.train)
    assert replace(split, test=others).known_in_test == 0


def test_numpy_s_whole_numbers_are_kept_as_python_s() -> None:
    """A run writes them into its files, long after it was paid for."""
    split = FewShotSplit((), (), (), np.int64(2), np.uint8(3), np.int32(4))  # type: ignore[arg-type]
    assert [type(each) for each in (split.shots, split.seed, split.test_seed)] == [int] * 3
    assert (split.shots, split.seed, split.test_seed) == (2, 3, 4)


@pytest.mark.parametrize("odd", [2.0, "2", []])
def test_a_split_s_seed_is_a_whole_number(odd: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number, not "):
        FewShotSplit((), (), (), 1, odd)


@pytest.mark.parametrize("odd", [{"shots": 2.0}, {"seed": "1"}, {"max_test": 1.5}])
def test_what_a_split_is_drawn_with_is_whole(odd: dict[str, Any]) -> None:
    [name] = odd
    with pytest.raises(ConfigError, match=f"{name} must be a whole number, not "):
        draw_split(task_from_lists(["x", "y"], ["a", "b"]), **{"shots": 1, "seed": 0, **odd})
