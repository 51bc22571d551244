"""Hub data sets, with the download replaced by sets made in memory."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from blackbox_delta.errors import DataError, MissingExtraError
from blackbox_delta.tasks import Columns, TaskData, load_task
from blackbox_delta.types import Example


def split(texts: list[str], labels: list[Any], names: list[str] | None = None, **more: Any) -> Any:
    import datasets

    made = datasets.Dataset.from_dict({"text": texts, "label": labels, **more})
    return made if names is None else made.cast_column("label", datasets.ClassLabel(names=names))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the given splits as if the hub had them."""
    datasets = pytest.importorskip("datasets")

    def load_splits(columns: Columns | None = None, **splits: Any) -> TaskData:
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))
        return load_task("hub:some/films", columns)

    return load_splits


def test_class_numbers_become_names_and_splits_become_parts(load: Any) -> None:
    names = ["neg", "pos"]
    data = load(
        train=split(["a", "b"], [1, 0], names),
        validation=split(["c"], [0], names),
        test=split(["d"], [1], names),
    )
    assert data == TaskData(
        "some/films",
        ("neg", "pos"),
        (Example("a", None, "pos"), Example("b", None, "neg")),
        (Example("c", None, "neg"),),
        (Example("d", None, "pos"),),
    )


@pytest.mark.parametrize("names", [None, ["neg", "pos"]])
def test_a_test_part_without_labels_gives_way_to_the_validation_part(
    load: Any, names: list[str] | None
) -> None:
    data = load(
        train=split(["a", "b"], [1, 0], names),
        validation=split(["c"], [0], names),
        test=split(["d", "e"], [-1, -1], names),
    )
    assert [example.text for example in data.test] == ["c"]
    assert data.dev is None


def test_the_validation_part_is_the_test_part_where_there_is_no_other(load: Any) -> None:
    data = load(train=split(["a", "b"], ["x", "y"]), validation=split(["c"], ["x"]))
    assert data.dev is None
    assert len(data.test) == 1


def test_rows_without_a_class_are_left_out(load: Any) -> None:
    data = load(train=split(["a", "b", "c"], [1, -1, 0], ["neg", "pos"]))
    assert [example.text for example in data.train] == ["a", "c"]


def test_minus_one_in_a_plain_column_is_a_class(load: Any) -> None:
    assert load(train=split(["a", "b", "c"], [1, -1, 0])).labels == ("-1", "0", "1")


def test_pairs_are_found_and_named(load: Any) -> None:
    found = load(train=split(["a", "b"], ["x", "y"], text_pair=["p", "q"]))
    named = load(Columns(text_pair="claim"), train=split(["a", "b"], ["x", "y"], claim=["p", "q"]))
    assert found.digest() == named.digest()
    assert found.pairs


def test_what_the_hub_set_lacks_is_named(load: Any) -> None:
    with pytest.raises(DataError, match=r"no split 'train'; its splits are: test"):
        load(test=split(["a"], ["x"]))
    with pytest.raises(DataError, match=r"split train: no column 'gold'.*'text', 'label'"):
        load(Columns(label="gold"), train=split(["a"], ["x"]))
    with pytest.raises(DataError, match=r"no row of the split 'train' has a label"):
        load(train=split(["a"], [-1]))
    with pytest.raises(DataError, match=r"hub:some/films, split train, row 1: the text .* empty"):
        load(train=split(["a", ""], ["x", "y"]))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:trec", ("trec", None)),
        ("hub:owner/films", ("owner/films", None)),
        ("hub:owner/films/short", ("owner/films", "short")),
    ],
)
def test_names_and_configurations(
    monkeypatch: pytest.MonkeyPatch, source: str, expected: tuple[str, str | None]
) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[object] = []

    def remember(*arguments: object) -> Any:
        asked.append(arguments)
        return {"train": split(["a", "b"], ["x", "y"])}

    monkeypatch.setattr(datasets, "load_dataset", remember)
    load_task(source)
    assert asked == [expected]


@pytest.mark.parametrize("source", ["hub:", "hub:a//b", "hub:a/b/c/d"])
def test_a_malformed_name_is_refused(source: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="write hub:NAME"):
        load_task(source)


def test_the_librarys_own_errors_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="hub:owner/films cannot be loaded: no network"):
        load_task("hub:owner/films")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"hub:films.*blackbox-delta\[hub\]"):
        load_task("hub:films")
