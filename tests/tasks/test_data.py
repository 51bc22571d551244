"""Folders, files and lists: what is read, and the one clear error for each thing amiss."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import DataError
from blackbox_delta.tasks import (
    Columns,
    TaskData,
    load_task,
    read_examples,
    read_texts,
    task_from_lists,
)
from blackbox_delta.types import Example

ROWS = [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}]
PAIRS = [
    {"text": "It rains.", "text_pair": "It is wet.", "label": "yes"},
    {"text": "It rains.", "text_pair": "It is dry.", "label": "no"},
]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_folder(folder: Path, **parts: Sequence[Mapping[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for part, rows in parts.items():
        write_jsonl(folder / f"{part}.jsonl", rows)
    return folder


# ------------------------------------------------------------------------- what works


def test_a_folder_with_all_parts(tmp_path: Path) -> None:
    data = load_task(write_folder(tmp_path / "films", train=ROWS, dev=ROWS[:1], test=ROWS[1:]))
    good, bad = Example("good film", None, "pos"), Example("bad film", None, "neg")
    assert data == TaskData("films", ("neg", "pos"), (good, bad), (good,), (bad,))
    assert not data.pairs


def test_a_folder_with_a_training_part_only(tmp_path: Path) -> None:
    data = load_task(str(write_folder(tmp_path / "films", train=PAIRS)))
    assert data.dev is None
    assert data.test == ()
    assert data.pairs


def test_the_parts_of_a_folder_may_be_tables(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nfine,pos\ndull,neg\n")
    (tmp_path / "test.tsv").write_text("text\tlabel\ngreat\tpos\n")
    task = load_task(tmp_path)
    assert [example.text for example in task.train] == ["fine", "dull"]
    assert [example.text for example in task.test] == ["great"]
    (tmp_path / "test.jsonl").write_text('{"text": "great", "label": "pos"}\n')
    with pytest.raises(DataError, match=r"holds test\.jsonl and test\.tsv; keep one of them"):
        load_task(tmp_path)


def test_texts_with_two_labels_are_named(caplog: pytest.LogCaptureFixture) -> None:
    texts, labels = ["fine", "dull", " fine ", "fine", "odd"], ["pos", "neg", "neg", "pos", "neg"]
    task_from_lists(texts, labels, name="films")
    assert "films (train): 1 text has more than one label, such as 'fine' (neg, pos)" in caplog.text
    caplog.clear()
    task_from_lists(texts[:2], labels[:2])
    task_from_lists(["a", "a"], ["yes", "no"], ["b", "c"])
    assert not caplog.records


def test_every_format_gives_the_same_content(tmp_path: Path) -> None:
    rows = [
        {"text": 'He said "no", twice\nand left', "label": "neg"},
        {"text": "naïve\ttab \u2028 separator", "label": "pos"},
    ]
    digests = {load_task(write_jsonl(tmp_path / "a.jsonl", rows)).digest()}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ["label", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        path = tmp_path / f"a{suffix}"
        path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
        digests.add(load_task(path).digest())
    assert len(digests) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_byte_order_mark_is_accepted(tmp_path: Path, suffix: str) -> None:
    lines = ["text,label", "a,x", "b,y"] if suffix == ".csv" else [json.dumps(r) for r in ROWS]
    path = tmp_path / f"marked{suffix}"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    assert len(load_task(path).train) == 2


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("premise,claim,gold\nA,B,1\nC,D,0\n", encoding="utf-8")
    data = load_task(path, Columns(text="premise", text_pair="claim", label="gold"))
    assert data.train == (Example("A", "B", "1"), Example("C", "D", "0"))


def test_numbers_and_truth_values_become_label_strings(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 10}, {"text": "b", "label": -1}, {"text": "c", "label": True}]
    assert load_task(write_jsonl(tmp_path / "a.jsonl", rows)).labels == ("-1", "10", "True")


def test_second_texts_that_are_empty_on_all_rows_are_no_pairs(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "text_pair": None}, {**ROWS[1], "text_pair": " "}]
    assert not load_task(write_jsonl(tmp_path / "a.jsonl", rows)).pairs


def test_task_data_is_given_back() -> None:
    data = task_from_lists(["a", "b"], [0, 1])
    assert load_task(data) is data


def test_the_digest_is_of_the_content_alone() -> None:
    base = task_from_lists(["a", "b"], ["x", "y"])
    assert len(base.digest()) == 64
    assert base.digest() == task_from_lists(["a", "b"], ["x", "y"], name="other").digest()
    others = [
        task_from_lists(["a", "c"], ["x", "y"]),
        task_from_lists(["b", "a"], ["y", "x"]),
        task_from_lists(["a", "b"], ["y", "x"]),
        task_from_lists(["a", "b"], ["x", "y"], ["p", "q"]),
        task_from_lists(["a", "b"], ["x", "y"], test=(["a"], ["x"])),
        task_from_lists(["a", "b"], ["x", "y"], dev=(["a"], ["x"])),
    ]
    assert len({data.digest() for data in [base, *others]}) == 7


def test_lists_and_arrays() -> None:
    plain = task_from_lists(["a", "b"], [0, 1], ["p", "q"], dev=(["c"], [1], ["r"]), name="mine")
    arrays = task_from_lists(
        np.array(["a", "b"]), np.array([0, 1]), np.array(["p", "q"]), dev=(["c"], [1], ["r"])
    )
    assert plain.train == (Example("a", "p", "0"), Example("b", "q", "1"))
    assert plain.dev == (Example("c", "r", "1"),)
    assert arrays.train == plain.train
    # A prompt's digest is taken over its printed form, so numpy's own string type must not stay.
    assert type(arrays.train[0].text) is str


def test_the_development_data_sets_load() -> None:
    if not SHARED.is_dir():
        pytest.skip("the public data sets in shared/data beside the repository are missing")
    loaded = {name: load_task(SHARED / name) for name in ("sst2", "agnews", "trec", "rte")}
    sizes = {name: (len(d.labels), len(d.train), len(d.test)) for name, d in loaded.items()}
    assert sizes == {
        "sst2": (2, 4000, 1821),
        "agnews": (4, 3000, 2000),
        "trec": (6, 5452, 500),
        "rte": (2, 2490, 277),
    }
    assert [name for name, data in loaded.items() if data.pairs] == ["rte"]


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": "b"', r"line 2: not valid JSON"),
        ('\n\n{"text": }', r"line 3: not valid JSON \(.* at column 10\)"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ('["a", "x"]', "line 1: a JSON list where an object"),
        ('{"sentence": "a", "label": "x"}', r"line 1: no column 'text'.*'sentence', 'label'"),
        ('{"text": "a", "gold": "x"}', r"line 1: no column 'label'.*'text', 'gold'"),
        ('{"text": " \\n", "label": "x"}', "line 1: the text in column 'text' is empty"),
        ('{"text": null, "label": "x"}', "line 1: the text in column 'text' is empty"),
        ('{"text": 3, "label": "x"}', "line 1: the text in column 'text' is a int"),
        ('{"text": "\\ud800", "label": "x"}', "line 1: .* broken character"),
        ('{"text": "a", "label": ""}', "line 1: the label in column 'label' is empty"),
        ('{"text": "a", "label": null}', "line 1: the label in column 'label' is empty"),
        ('{"text": "a", "label": 1.5}', "line 1: the label in column 'label' is a float"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}', "label 'x'.*two classes"),
        (
            '{"text": "a", "text_pair": "p", "label": "x"}\n{"text": "b", "label": "y"}',
            "line 2: no second text in column 'text_pair'",
        ),
        ("", "is empty"),
        ("\n \n", "is empty"),
    ],
)
def test_a_bad_jsonl_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_task(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence,label\na,x\n", r"line 2: no column 'text'.*'sentence', 'label'"),
        ("text,label\na,x\nb,y,z\n", "line 3: 3 fields where the header names 2"),
        ('text,label\n"two\nlines",x\nb\n', "line 4: 1 fields where the header names 2"),
        ('text,label\n"never closed,x\nb,y\n', "line 2: unexpected end of data"),
        ('text,label\na,x\n"b" c,y\n', "line 3: .*expected after"),
        ("text,label\na,x\n,y\n", "line 3: the text in column 'text' is empty"),
        ("text,text,label\na,b,x\n", "line 1: more than one column is called 'text'"),
        ("text,label\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_a_bad_csv_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_task(path)
    assert str(path) in str(caught.value)


def test_a_named_pair_column_must_be_there(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(DataError, match="line 1: no column 'claim'"):
        load_task(path, Columns(text_pair="claim"))


def test_an_undecodable_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"text,label\ngood,x\nna\xefve,y\n")
    with pytest.raises(DataError, match="line 3: not UTF-8"):
        load_task(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*nowhere.*hub:NAME"):
        load_task(tmp_path / "nowhere")


def test_a_folder_without_a_training_part_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, test=ROWS)
    with pytest.raises(DataError, match=r"no train\.jsonl, .* it holds: test\.jsonl"):
        load_task(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="it holds: nothing"):
        load_task(empty)


@pytest.mark.parametrize("name", ["a.parquet", "a.txt", "a"])
def test_an_unknown_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("good film", encoding="utf-8")
    with pytest.raises(DataError, match=r"Known are: \.jsonl, \.csv, \.tsv$"):
        load_task(tmp_path / name)


def test_a_folder_in_a_files_place_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, train=ROWS)
    (tmp_path / "test.jsonl").mkdir()
    with pytest.raises(DataError, match=r"test\.jsonl cannot be read"):
        load_task(tmp_path)


@pytest.mark.parametrize("part", ["dev", "test"])
def test_a_label_that_the_training_part_lacks_is_refused(tmp_path: Path, part: str) -> None:
    stray = [*ROWS, {"text": "so so", "label": "mixed"}]
    folder = write_folder(tmp_path / "films", train=ROWS, **{part: stray})
    with pytest.raises(DataError, match=rf"{part}\.jsonl, line 3: the label 'mixed'.*neg, pos"):
        load_task(folder)


def test_parts_that_disagree_on_pairs_are_refused(tmp_path: Path) -> None:
    single = [{"text": row["text"], "label": row["label"]} for row in PAIRS]
    with pytest.raises(DataError, match=r"test\.jsonl: single texts, though .* are pairs"):
        load_task(write_folder(tmp_path / "a", train=PAIRS, test=single))
    with pytest.raises(DataError, match=r"test\.jsonl: pairs of texts, though .* single texts"):
        load_task(write_folder(tmp_path / "b", train=single, test=PAIRS))


def test_bad_lists_are_refused() -> None:
    with pytest.raises(DataError, match=r"differ in length \(2 of text, 1 of label\)"):
        task_from_lists(["a", "b"], ["x"])
    with pytest.raises(DataError, match="the lists are empty"):
        task_from_lists([], [])
    with pytest.raises(DataError, match="single string where a list"):
        task_from_lists("ab", ["x", "y"])
    with pytest.raises(DataError, match=r"\(train\): a NoneType where a list, or one"):
        task_from_lists(["a", "b"], None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"mine \(train\), position 1: the text .* is empty"):
        task_from_lists(["a", ""], ["x", "y"], name="mine")
    with pytest.raises(DataError, match=r"\(test\), position 0: the label 'z'"):
        task_from_lists(["a", "b"], ["x", "y"], test=(["c"], ["z"]))


# -------------------------------------------------------------------- texts to classify


def test_texts_from_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two {x}\r\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two {x}\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("text\tlabel\none\t\ntwo {x}\t\n", encoding="utf-8")
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two {x}", "label": None}])
    for suffix in ("txt", "csv", "tsv", "jsonl"):
        assert read_texts(tmp_path / f"a.{suffix}") == [Example("one"), Example("two {x}")]


def test_texts_come_without_labels_whatever_these_are(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": 0.7}, {"text": "two", "label": ["a"]}, {"text": "three"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert [example.label for example in read_texts(path)] == [None, None, None]


def test_labelled_examples_of_one_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": 3}, {"text": "two"}])
    with pytest.raises(DataError, match=r"a.jsonl, line 2: no column 'label'. The columns are"):
        read_examples(path)
    write_jsonl(path, [{"text": "one", "cls": 3}, {"text": "two", "cls": 4}])
    assert [each.label for each in read_examples(path, Columns(label="cls"))] == ["3", "4"]


def test_a_folder_is_called_as_it_was_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": t, "label": t} for t in "ab"])
    (tmp_path / "films").symlink_to(tmp_path)
    assert load_task(tmp_path / "films").name == "films"


def test_a_long_text_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'text\n"{"word " * 40_000}"\n')
    usual = csv.field_size_limit()
    [example] = read_texts(tmp_path / "a.csv")
    assert len(example.text) == 200_000
    assert csv.field_size_limit() == usual


def test_of_many_labels_an_error_shows_some(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": f"{n:05} {'x' * 500}"} for n in range(5000)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [{"text": "one", "label": "mixed"}])
    with pytest.raises(DataError, match="'mixed' does not occur .* and 4,980 more$") as caught:
        load_task(tmp_path)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda: load_task("x" * 300), "cannot be read: File name too long"),
        (lambda: load_task("a.csv", {"text": "t"}), r"columns: a dict; write Columns\(text="),
        (
            lambda: task_from_lists([*"ab"], [*"ab"], test=()),
            r"lists \(test\): give \(texts, labels\)",
        ),
        (lambda: task_from_lists([*"ab"], [*"ab"], dev=zip("a", "b")), "give .texts, labels"),  # noqa: B905
    ],
)
def test_what_is_no_data_is_told_in_words(give: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        give()


def test_texts_from_a_stream() -> None:
    assert read_texts(io.StringIO("one\n3\n[x]\n")) == [
        Example("one"),
        Example("3"),
        Example("[x]"),
    ]
    pair = io.StringIO('\ufeff\n{"a": "one", "b": "two"}\n')
    assert read_texts(pair, Columns("a", "b")) == [Example("one", "two")]
    # Plain lines are the text, whatever its column is called elsewhere.
    assert read_texts(io.StringIO("one\n"), Columns("sentence")) == [Example("one")]


def test_bad_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_texts(io.StringIO("\n"))
    with pytest.raises(DataError, match="input, line 2: not valid JSON"):
        read_texts(io.StringIO('{"text": "a"}\nplain\n'))
    with pytest.raises(DataError, match="line 1: no column 'claim'"):
        read_texts(io.StringIO("plain\n"), Columns(text_pair="claim"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_texts(io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_texts(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match=r"Known are: \.jsonl, \.csv, \.tsv, \.txt$"):
        read_texts(tmp_path / "a.pdf")


# -------------------------------------------------------------------------- properties

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(texts, min_size=1, max_size=5))
def test_any_text_survives_json_lines(content: list[str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=len(text) % 2 == 0) for text in content]
    assert [e.text for e in read_texts(io.StringIO("\n".join(lines)))] == content


@given(st.text(alphabet=string.printable + '{"é\u2028\ufeff', max_size=60))
def test_any_stream_gives_texts_or_our_error(content: str) -> None:
    try:
        examples = read_texts(io.StringIO(content, newline=""))
    except DataError:
        return
    assert examples
    assert all(example.text.strip() for example in examples)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (pd.DataFrame({"a": ["x", "y"], "b": ["p", "q"]}), "DataFrame"),
        ({"x": 1, "y": 2}, "dict"),
        (np.array([["x"], ["y"]]), "ndarray"),
        (b"xy", "bytes"),
    ],
)
def test_a_table_is_no_list_of_texts(texts: Any, kind: str) -> None:
    """What it gives, one after the other, are the names of its columns."""
    with pytest.raises(DataError, match=f"a {kind} where a list, or one column, was expected"):
        task_from_lists(texts, ["good", "bad"])


@pytest.mark.parametrize("kind", [pd.Series, np.array, tuple, iter])
def test_any_kind_of_list_is_read(kind: Any) -> None:
    task = task_from_lists(kind(["x", "y"]), kind(["good", "bad"]))
    assert [example.text for example in task.train] == ["x", "y"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a"], "a list is neither a file nor a text stream"),
        (None, "a NoneType is neither a file nor a text stream"),
        (io.BytesIO(b"one\n"), "the stream is of bytes; open it as text"),
    ],
)
def test_what_is_no_text_stream_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_texts(source)


def test_columns_are_checked_though_a_loaded_task_needs_none() -> None:
    task = task_from_lists(["x", "y"], ["a", "b"])
    assert load_task(task, Columns(text="Text")) is task
    with pytest.raises(DataError, match=r"columns: a dict; write Columns"):
        load_task(task, {"text": "Text"})  # type: ignore[arg-type]
