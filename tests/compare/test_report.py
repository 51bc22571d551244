"""Figures against those worked out by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from comparing import made

from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.report import COLUMNS, Report
from blackbox_delta.compare.tables import NOTES, csv_text, markdown, remarks, tables

# Ten test examples; the right answer is 0. Calibrated gets 6 and 4 right, new 9 and 8.
BASE_13, BASE_21 = [0] * 6 + [1] * 4, [0] * 4 + [1] * 6
NEW_13, NEW_21 = [0] * 9 + [1], [1] * 2 + [0] * 8


def findings() -> list[Finding]:
    return [
        made("films", "calibrated", 13, BASE_13),
        made("films", "calibrated", 21, BASE_21),
        made("films", "new:4", 13, NEW_13, train=[0, 0, 0, 1], calls=4),
        made("films", "new:4", 21, NEW_21, train=[0, 0, 0, 0], calls=6),
    ]


def with_others() -> list[Finding]:
    """A second task, on which ``new:4`` refused one seed and ``shy`` all."""
    refused = Finding("news", 21, "new:4", 16, refusal="out of budget")
    shy = [
        Finding(task, seed, "shy", 16, refusal="no gradients here")
        for task in ("films", "news")
        for seed in (13, 21)
    ]
    return [
        *findings(),
        made("news", "calibrated", 13, [0] * 5),
        made("news", "calibrated", 21, [0] * 4 + [1]),
        made("news", "new:4", 13, [0] * 3 + [1] * 2, calls=4),
        refused,
        *shy,
    ]


def test_a_line_holds_the_figures_of_its_cell() -> None:
    line = Report(findings()).lines()[2]
    assert tuple(line) == COLUMNS
    assert line["accuracy"] == 0.9
    # Class 0: precision 1, recall .9, F1 18/19. Class 1, only answered: F1 0.
    assert line["macro_f1"] == pytest.approx(9 / 19)
    assert line["train_accuracy"] == 0.75
    assert line["gap"] == pytest.approx(-0.15)
    assert line["difference"] == pytest.approx(0.3)
    # Three examples gained, none lost: 2 · (1/2)^3.
    assert line["p_value"] == pytest.approx(0.25)
    assert line["low"] < 0.3 < line["high"]
    costs = ("calls", "queries", "tokens", "seconds", "peak_memory_bytes", "artifact_bytes")
    assert [line[name] for name in costs] == [4, 40, 400, 2, 5 * 10**6, 2000]
    assert (line["test_n"], line["test_queries"], line["refusal"]) == (10, 1, None)
    assert (line["delta_size"], line["dimension"]) == (None, None)


def test_a_line_tells_the_delta_that_was_searched() -> None:
    [found] = findings()[:1]
    assert found.measured is not None
    details = {"delta": {"kind": "lora", "size": 1221120, "dimension": 500}}
    searched = replace(found, measured=replace(found.measured, details=details))
    [line] = Report([searched]).lines()
    assert (line["delta_size"], line["dimension"]) == (1221120, 500)


def test_the_baseline_is_not_compared_with_itself() -> None:
    line = Report(findings()).lines()[0]
    assert line["accuracy"] == 0.6
    assert line["difference"] is line["p_value"] is None


def test_a_summary_is_over_the_seeds() -> None:
    base, new = Report(findings()).summaries("films")
    assert (base.method, base.seeds, base.verdict) == ("calibrated", (13, 21), None)
    assert new.accuracy.mean == pytest.approx(0.85)
    assert new.accuracy.deviation == pytest.approx(0.05 * 2**0.5)
    # Training .75 and 1, test .9 and .8.
    assert new.gap == pytest.approx(0.025)
    assert new.costs["calls"] == 5
    assert new.costs["peak_memory_bytes"] == 5 * 10**6
    assert new.verdict is not None
    assert new.verdict.difference == pytest.approx(0.35)
    assert (new.verdict.seeds, new.verdict.n) == (2, 10)
    first = [int(n == 0) - int(b == 0) for n, b in zip(NEW_13, BASE_13, strict=True)]
    second = [int(n == 0) - int(b == 0) for n, b in zip(NEW_21, BASE_21, strict=True)]
    totals = [abs(a + b) for a, b in zip(first, second, strict=True)]
    assert new.verdict.p_value == pytest.approx(_flips(totals, sum(first) + sum(second)))


def _flips(sizes: list[int], observed: int) -> float:
    """The exact test by trying all signs."""
    sums = [0]
    for size in sizes:
        sums = [total + sign * size for total in sums for sign in (1, -1)]
    return sum(abs(total) >= abs(observed) for total in sums) / len(sums)


def test_one_seed_has_no_deviation() -> None:
    [base] = Report(findings()[:1]).summaries("films")
    assert base.accuracy == (0.6, None)


def test_over_tasks_only_seeds_count_that_finished_all() -> None:
    base, new = Report(with_others()).summaries(None)
    assert base.seeds == (13, 21)
    assert base.accuracy.mean == pytest.approx((0.8 + 0.6) / 2)
    assert base.accuracy.deviation == pytest.approx(0.1 * 2**0.5)
    assert new.seeds == (13,)
    assert new.accuracy == (pytest.approx(0.75), None)
    assert new.verdict is not None
    # 15 examples of both tasks together: three gained, two lost.
    assert new.verdict.n == 15
    assert new.verdict.difference == pytest.approx(1 / 15)


def test_without_the_baseline_nothing_is_compared() -> None:
    report = Report(findings()[2:])
    assert report.summaries("films")[0].verdict is None
    assert report.lines()[0]["difference"] is None


def test_the_csv_is_unrounded_and_has_a_line_for_every_cell() -> None:
    third = made("thirds", "calibrated", 13, [0, 1, 1])
    rows = list(csv.DictReader(io.StringIO(csv_text(Report([*with_others(), third])))))
    assert len(rows) == 13
    assert float(rows[-1]["accuracy"]) == 1 / 3
    shy = [row for row in rows if row["method"] == "shy"]
    assert {row["refusal"] for row in shy} == {"no gradients here"}
    assert {row["accuracy"] for row in shy} == {""}


def test_tables_show_points_and_costs() -> None:
    scores, costs = tables(Report(findings()))
    assert scores.title == "Scores: films"
    assert scores.rows[0] == ["calibrated", "2", "50.0 ± 14.1", "33.0 ± 6.3", *"–––", "+50.0"]
    name, seeds, accuracy, _, gain, interval, p, gap = scores.rows[1]
    assert (name, seeds, accuracy, gain, gap) == ("new:4", "2", "85.0 ± 7.1", "+35.0", "+2.5")
    low, high = map(float, interval.split(", "))
    assert low < 35 < high
    assert 0 < float(p) < 1
    assert costs.rows[1] == ["new:4", "5", "50", "500", "2.5", "5", "2.0", "1"]


def test_several_tasks_are_led_by_their_mean() -> None:
    titles = [table.title for table in tables(Report(with_others()))]
    assert titles == [
        f"{what}: {name}"
        for name in ("mean of 2 tasks", "films", "news")
        for what in ("Scores", "Costs")
    ]


def test_refusals_stand_together_with_their_reason() -> None:
    said = remarks(Report(with_others()))
    assert said == [
        "Not applied: new:4 on news, seed 21. Reason: out of budget",
        (
            "Not applied: shy on films, seed 13; shy on films, seed 21; shy on news, seed 13; "
            "shy on news, seed 21. Reason: no gradients here"
        ),
    ]


def in_precision(finding: Finding, dtype: str) -> Finding:
    return replace(finding, identity={"dtype": dtype})


def test_cells_of_several_precisions_are_told_apart() -> None:
    """On a server nobody knows; a refused cell has none."""
    base, *others = with_others()
    kinds = [in_precision(base, "torch.float32")]
    kinds += [in_precision(each, "torch.bfloat16") for each in others[:2]]
    report = Report([*kinds, *others[2:]])
    assert [line["dtype"] for line in report.lines()][:4] == ["float32", *["bfloat16"] * 2, ""]
    assert report.dtypes == {"float32": 1, "bfloat16": 2}
    said = "several precisions (1 in float32, 2 in bfloat16"
    assert said in remarks(report)[-1]
    assert said in markdown(report, "fake", [])
    halves = [*kinds[1:], *others[2:]]
    assert len(remarks(Report(halves, "bfloat16"))) == len(remarks(report)) - 1
    assert "in bfloat16; the model is open in float32 now" in remarks(Report(halves, "float32"))[-1]


def test_the_markdown_report_is_whole() -> None:
    odd = [replace(each, task=f"a|{each.task}") for each in with_others()]
    text = markdown(Report(odd), "fake, 16 shots", ["accuracy.png"])
    lines = text.splitlines()
    assert lines[0] == "# Comparison"
    assert "fake, 16 shots" in lines
    assert "![accuracy](accuracy.png)" in lines
    assert (
        "| method | seeds | accuracy | macro-F1 | gain | 95 % interval | p | train − test |"
        in lines
    )
    assert all(note in lines for note in NOTES)
    table = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {9}
