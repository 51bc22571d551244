"""Results, read back."""

from __future__ import annotations

import pytest
from screens import ESCAPES, pipe, result, rows_of, shown, shown_result, terminal

from blackbox_delta.display import show_result, show_seeds_result
from blackbox_delta.types import Json


def test_a_result_shows_scores_costs_and_verdict() -> None:
    console = pipe()
    show_result(console, result())
    rows, text = rows_of(console), shown(console)
    assert rows["120 test examples"] == ["accuracy", "macro-F1"]
    assert rows["untuned"] == ["0.500", "0.333"]
    assert rows["calibrated"] == ["0.925", "0.924"]
    assert rows["tuned"] == ["0.958", "0.957"]
    assert "84 calls = 1,344 queries = 21,504 tokens" in text
    assert "240 queries for the test; 2.0 s in the model" in text
    assert "Verdict: Tuned is better [by 3.3 points]." in text


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("calibrated", "Kept: the calibrated untuned model"),
        ("head", "Kept: the output side alone, a ridge head."),
        ("delta", "Kept: lora+bitfit (d = 500 of D = 1,411,776) and a ridge head."),
    ],
)
def test_a_result_says_what_was_kept(chosen: str, expected: str) -> None:
    console = pipe()
    delta = {"kind": "lora+bitfit", "size": 1_411_776, "dimension": 500}
    show_result(console, result(chosen=chosen, delta=delta))
    assert expected in shown(console)


def test_a_result_without_test_part_shows_the_development_examples() -> None:
    console = pipe()
    nothing = {
        f"{name}_{score}": None
        for name in ("untuned", "baseline", "test")
        for score in ("accuracy", "macro_f1")
    }
    show_result(console, result(test_n=0, **nothing))
    assert "16 development examples" in shown(console)
    assert "calibrated 0.750, tuned 0.875" in shown(console)


def test_a_result_shows_money_where_it_is_known() -> None:
    console = pipe()
    show_result(console, result(cost_usd=0.1234, test_cost_usd=0.01234))
    text = shown(console)
    assert "= 21,504 tokens = $0.12 for tuning, 240 queries = $0.0123 for the test;" in text
    without = pipe()
    show_result(without, result(cost_usd=None, test_cost_usd=None))
    assert "$" not in shown(without)


def test_a_result_says_what_is_wrong_with_replies() -> None:
    console = pipe()
    counts = {
        "labels": ["a", "b"],
        "lost_queries": 1000,
        "test_lost_queries": 234,
        "bounded_labels": 380,
        "test_bounded_labels": 0,
        "unparsed_replies": 3,
        "test_unparsed_replies": 4,
    }
    show_result(console, result(**counts))
    text = shown(console)
    assert "1,234 more queries were lost" in text
    # 380 of 2 labels of each of 1,344 + 240 replies.
    assert "12 % of the labels' log-probabilities are upper bounds" in text
    assert "7 of 1,584 replies named no label, or were stopped by a filter." in text
    few = pipe()
    show_result(few, result(labels=["a", "b"], bounded_labels=1))
    assert "Less than 1 % of" in shown(few)


@pytest.mark.parametrize("zeros", [{}, {"lost_queries": 0, "bounded_labels": 0}])
def test_a_sound_result_says_no_more_than_it_must(zeros: dict[str, int]) -> None:
    console = pipe()
    show_result(console, result(**zeros))
    for word in ("lost", "bound", "named no label"):
        assert word not in shown(console)


# ------------------------------------------------------------------ of auto


def part(name: str, finished: int, queries: int, accuracy: float, dropped: int = 0) -> Json:
    return {
        "part": name,
        "finished": [f"{name} {n}" for n in range(finished)],
        "dropped": [f"{name} out {n}" for n in range(dropped)],
        "queries": queries,
        "tokens": 30 * queries,
        "held_out_accuracy": accuracy,
        "held_out_loss": 1 - accuracy,
    }


PARTS = [
    part("the default view", 1, 80, 0.7),
    part("anchors of its label words", 0, 5, 0.725),
    part("further views", 3, 900, 0.8, dropped=2),
    part("further views", 1, 60, 0.75, dropped=1),
    part("search of the soft-prompt", 2, 1200, 0.775),
]


def steps(count: int) -> list[Json]:
    return [
        {"queries_per_answer": n, "held_out_accuracy": 0.7 + n / 100, "held_out_loss": 1 / n}
        for n in range(1, count + 1)
    ]


def views_result(count: int = 6, **changes: object) -> Json:
    views = [{"name": f"[view {n}]", "weight": 1 / count, "loss": 0.5} for n in range(count)]
    found = result(
        recipe="auto",
        chosen="views",
        head="anchored",
        train_n=80,
        estimate=0.8125,
        views=views,
        parts=PARTS,
        steps=steps(count),
        queries_per_answer=count,
        calls=28.0625,
    )
    for name in ("dev_n", "dev_accuracy", "baseline_dev_accuracy"):
        del found[name]
    return found | changes


def test_a_result_of_auto_says_what_was_kept_and_what_it_cost() -> None:
    rows, text = shown_result(views_result())
    assert "Kept: 6 views behind an anchored head; an answer takes 6 queries." in text
    assert rows["tuned"] == ["0.958", "0.957"]
    assert "Cost: 28.1 calls = 1,344 queries = 21,504 tokens for tuning, 240 queries" in text
    assert "Verdict: Tuned is better [by 3.3 points]." in text
    _, alone = shown_result(views_result(1))
    assert "Kept: 1 view behind an anchored head; an answer takes 1 query." in alone


def test_parts_show_what_they_cost_and_gave() -> None:
    rows, _ = shown_result(views_result())
    assert rows["part"] == ["views", "dropped", "queries", "tokens", "accuracy", "loss"]
    assert rows["the default view"] == ["1", "0", "80", "2,400", "0.700", "0.300"]
    assert rows["anchors of its label words"] == ["0", "0", "5", "150", "0.725", "0.275"]
    # Both times together, and what stood after the second.
    assert rows["further views"] == ["4", "3", "960", "28,800", "0.750", "0.250"]
    assert rows["search of the soft-prompt"] == ["2", "0", "1,200", "36,000", "0.775", "0.225"]


def test_what_unlabelled_texts_taught_is_said() -> None:
    lesson = {"texts": 1500, "accuracy_without": 0.7, "accuracy_trained": 0.725, "kept": True}
    last = part("unlabelled texts", 0, 3000, 0.7)
    _, text = shown_result(views_result(parts=[*PARTS, last | lesson]))
    assert "1,500 unlabelled texts: held-out accuracy 0.700 without, 0.725 with" in text
    assert "by cross-fitting; kept." in text
    _, text = shown_result(views_result(parts=[*PARTS, last | lesson | {"kept": False}]))
    assert "not kept" in text
    # None could be paid for.
    _, text = shown_result(views_result(parts=[*PARTS, last | {"texts": 0, "kept": False}]))
    assert "cross-fitting" not in text
    assert "No unlabelled text was asked about" in text
    _, text = shown_result(views_result(parts=[*PARTS, last | lesson | {"texts": 1}]))
    assert "1 unlabelled text: held-out" in text


def test_steps_show_what_each_further_query_buys() -> None:
    rows, text = shown_result(views_result(3))
    assert rows["queries an answer"] == ["accuracy", "loss"]
    assert [rows[str(n)] for n in (1, 2, 3)] == [
        ["0.710", "1.000"],
        ["0.720", "0.500"],
        ["0.730", "0.333"],
    ]
    assert "4" not in rows
    _, alone = shown_result(views_result(1))
    assert "queries an answer" in text
    assert "queries an answer" not in alone


@pytest.mark.parametrize(
    ("count", "expected"), [(8, [*range(1, 9)]), (13, [1, 2, 4, 8, 13]), (16, [1, 2, 4, 8, 16])]
)
def test_many_steps_are_thinned_out(count: int, expected: list[int]) -> None:
    rows, _ = shown_result(views_result(count))
    assert [int(name) for name in rows if name.isdecimal()] == expected


def test_a_result_of_auto_fits_an_ordinary_terminal_and_is_plain_in_a_pipe() -> None:
    large = [{**each, "queries": 1_234_567, "tokens": 123_456_789} for each in PARTS]
    _, text = shown_result(views_result(16, parts=large))
    assert "…" not in text
    assert "1,234,567" in text
    assert all(line.isprintable() for line in text.splitlines())
    console = terminal()
    show_result(console, views_result(16, parts=large))
    assert all(len(line) <= 80 for line in ESCAPES.sub("", shown(console)).splitlines())


def test_without_a_test_part_auto_gives_its_estimate_as_an_estimate() -> None:
    _, text = shown_result(views_result(test_n=0, test_accuracy=None))
    assert "Estimated accuracy: 0.812, on the 80 training examples" in text
    assert "no test" in text
    assert "development" not in text


def test_test_examples_that_were_learned_from_are_named() -> None:
    known = "3 of 240 test examples are training examples too: the score flatters."
    assert known in shown_result(views_result(known_in_test=3, test_n=240), 200)[1]
    assert "flatters" not in shown_result(views_result(known_in_test=0))[1]


# ------------------------------------------------------------------ of several seeds


def seeds_result(**changes: object) -> Json:
    runs: list[Json] = [
        {
            "seed": seed,
            "estimate": 0.7 + n / 10,
            "untuned_accuracy": 0.5,
            "baseline_accuracy": 0.6 + n / 10,
            "test_accuracy": 0.8 - n / 100,
            "test_macro_f1": 0.75,
            "verdict": "…",
        }
        for n, seed in enumerate((13, 14))
    ]
    names = ("untuned_accuracy", "baseline_accuracy", "test_accuracy", "test_macro_f1")
    values: Json = {
        "model": "fake",
        "shots": 8,
        "seeds": [13, 14],
        "test_n": 120,
        "runs": runs,
        "mean": dict(zip(names, (0.5, 0.65, 0.795, 0.75), strict=True)),
        "deviation": dict(zip(names, (0.0, 0.0707, 0.0071, 0.0), strict=True)),
        "calls": 16.5,
        "queries": 264,
        "tokens": 9000,
        "test_queries": 480,
        "seconds": 12.34,
        "recommended": {"seed": 14, "folder": "seed-14", "why": "the best estimate"},
        "verdict": "Tuned is better on average over 2 seeds.",
    }
    return values | changes


def test_several_seeds_show_each_and_their_mean() -> None:
    console = pipe()
    show_seeds_result(console, seeds_result(cost_usd=0.5))
    rows, text = rows_of(console), shown(console)
    assert "fake, 8-shot, seeds 13, 14" in text
    assert "Accuracy on 120 test examples:" in text
    assert rows["untuned"] == ["calibrated", "tuned", "tuned, macro-F1"]
    assert rows["seed 13"] == ["0.500", "0.600", "0.800", "0.750"]
    assert rows["seed 14"] == ["0.500", "0.700", "0.790", "0.750"]
    assert rows["mean"] == ["0.500", "0.650", "0.795", "0.750"]
    assert rows["deviation"] == ["0.000", "0.071", "0.007", "0.000"]
    assert "16.5 calls = 264 queries = 9,000 tokens = $0.50 for tuning, 480 queries for" in text
    assert "Recommended: seed-14, the best estimate." in text
    assert "Verdict: Tuned is better on average over 2 seeds." in text


def test_several_seeds_without_a_test_part_show_estimates_where_there_are_any() -> None:
    console, unknown = pipe(), pipe()
    show_seeds_result(console, seeds_result(test_n=0))
    assert rows_of(console)["seed 14"] == ["0.800"]
    runs = [{**run, "estimate": None} for run in seeds_result()["runs"]]
    show_seeds_result(unknown, seeds_result(test_n=0, runs=runs))
    assert "Verdict: " in shown(unknown)
    assert "estimated" not in shown(unknown)
