"""What is shown is checked by reading it back: numbers from lines, cells from tables."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.budget import Budget
from blackbox_delta.display import (
    LiveDisplay,
    plan_line,
    progress_line,
    say,
    search_display,
    seconds_left,
    show_forecasts,
    show_metrics,
    show_result,
    show_seeds_result,
)
from blackbox_delta.errors import ConfigError, TemplateError
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.prices import Prices
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit, Metrics
from blackbox_delta.tuner import Progress
from blackbox_delta.types import Example, Json, Usage

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TWO_OF_EACH = tuple(Example(f"text {n}", label=label) for n in range(2) for label in "ab")
SPLIT = FewShotSplit(TWO_OF_EACH, TWO_OF_EACH[:3], (), shots=2, seed=0)


def terminal(width: int = 80) -> Console:
    return Console(force_terminal=True, file=io.StringIO(), width=width, _environ={})


def pipe() -> Console:
    return Console(force_terminal=False, file=io.StringIO(), width=80, _environ={})


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def after(budget: Budget, *, calls: int = 82, seconds: float = 41.0) -> Progress:
    budget.charge(Usage(queries=96 * calls, tokens=3000 * calls, seconds=seconds), calls=calls)
    return Progress(4, 0.52134, 0.8125, budget)


def result(**changes: object) -> Json:
    values: Json = {
        "model": "fake",
        "shots": 8,
        "seed": 13,
        "chosen": "head",
        "head": "ridge",
        "test_n": 120,
        "dev_n": 16,
        "untuned_accuracy": 0.5,
        "untuned_macro_f1": 0.3333,
        "baseline_accuracy": 0.925,
        "baseline_macro_f1": 0.924,
        "test_accuracy": 0.958,
        "test_macro_f1": 0.957,
        "baseline_dev_accuracy": 0.75,
        "dev_accuracy": 0.875,
        "calls": 84,
        "queries": 1344,
        "tokens": 21504,
        "test_queries": 240,
        "backend_seconds": 1.5,
        "test_seconds": 0.5,
        "head_seconds": 0.25,
        "optimizer_seconds": 0.125,
        "verdict": "Tuned is better [by 3.3 points].",
    }
    return values | changes


# ------------------------------------------------------------------ the course of a search


@given(
    spent=st.integers(1, 299), seconds=st.floats(0.01, 1e5), unit=st.sampled_from(["calls", "s"])
)
def test_the_time_left_follows_the_rate_of_what_was_spent(
    spent: int, seconds: float, unit: str
) -> None:
    budget = Budget(300) if unit == "calls" else Budget(2 * seconds, "seconds")
    budget.charge(Usage(queries=1, seconds=seconds), calls=spent)
    # A budget in seconds of the model's time has exactly those seconds left.
    expected = seconds / spent * (300 - spent) if unit == "calls" else seconds
    assert seconds_left(budget) == pytest.approx(expected)


def test_nothing_spent_promises_no_time() -> None:
    assert seconds_left(Budget(300)) == 0


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(300), "82 of 300 calls, 7,872 queries, 246,000 tokens, 1:49 left"),
        (Budget(9600, "queries"), "7,872 of 9600 queries, 82 calls, 246,000 tokens, 0:09 left"),
        (Budget(600, "seconds"), "41 of 600 seconds, 82 calls, 7,872 queries, 246,000 tokens"),
        (Budget(82), "82 of 82 calls, 7,872 queries, 246,000 tokens, 0:00 left"),
    ],
    ids=str,
)
def test_a_generation_is_one_line(budget: Budget, expected: str) -> None:
    line = progress_line(after(budget))
    assert line.startswith("generation 4: best loss 0.5213, dev accuracy 0.812, ")
    assert expected in line
    assert line.isprintable()


def test_money_is_written_as_money() -> None:
    budget = Budget.parse("$2.50", Prices(0.5, 2.0))
    line = progress_line(after(budget))  # 246,000 tokens at $0.50 a million
    assert "$0.12 of $2.50, 82 calls, 7,872 queries, 246,000 tokens, " in line


def test_a_line_mentions_money_and_lost_queries_where_there_are_any() -> None:
    priced = Budget(300, prices=Prices(0.5, 2.0))
    priced.charge(Usage(queries=1, lost=2000), calls=0)
    line = progress_line(after(priced))
    assert "82 of 300 calls, 7,873 queries, 246,000 tokens, $0.12, 2,000 lost, " in line
    sound = progress_line(after(Budget(300)))
    assert "$" not in sound
    assert "lost" not in sound


def test_hours_are_written_as_hours() -> None:
    assert progress_line(after(Budget(164), seconds=3725)).endswith(", 1:02:05 left")


def test_views_are_counted_as_views_and_time_is_a_bound() -> None:
    budget = Budget(300)
    budget.call_size = 80
    budget.charge(Usage(queries=100, tokens=3000, seconds=5.0), calls=0)
    progress = Progress(1, 0.52134, 0.8125, budget, what="views")
    assert progress_line(progress) == (
        "1 view: held-out loss 0.5213, held-out accuracy 0.812, 1 of 300 calls, 100 queries, "
        "3,000 tokens, at most 19:55 left"
    )
    assert progress_line(replace(progress, generation=6)).startswith("6 views: ")
    display, console = LiveDisplay(clock=lambda: 0.0), terminal()
    display.update(progress)
    console.print(display)
    assert "at most 19:55 left" in shown(console)
    tokens = Budget(9000, "tokens")
    tokens.call_size = 80
    tokens.charge(budget.usage, calls=0)
    # Parts of calls are no whole numbers.
    assert "3,000 of 9000 tokens, 1.2 calls, 100 queries, " in progress_line(
        replace(progress, budget=tokens)
    )


def test_a_pipe_gets_plain_lines_of_any_length() -> None:
    console, budget = pipe(), Budget(300)
    with search_display(console) as observer:
        observer(after(budget))
        observer(after(budget))
    lines = shown(console).splitlines()
    assert [line.split(",")[2] for line in lines] == [" 82 of 300 calls", " 164 of 300 calls"]
    assert all(line.isprintable() for line in lines)


def test_a_terminal_gets_a_bar_and_the_figures_within_its_width() -> None:
    console = terminal()
    with search_display(console) as observer:
        observer(after(Budget(300)))
    text = shown(console)
    assert "\x1b[" in text
    # The last picture is what stays; it promises no more time.
    rows = [ESCAPES.sub("", row).rstrip() for row in re.split(r"[\r\n]+", text)]
    bar, found, also_spent = [row for row in rows if row][-3:]
    assert re.fullmatch(r"━+[╸╺]━+ 82 of 300 calls", bar.strip())
    assert found == "generation 4: best loss 0.5213, dev accuracy 0.812"
    assert also_spent == "7,872 queries, 246,000 tokens"
    assert all(len(row) <= 80 for row in rows)


def test_the_live_display_counts_down_between_generations() -> None:
    now = 100.0
    display = LiveDisplay(clock=lambda: now)

    def picture() -> str:
        console = terminal()
        console.print(display)
        return ESCAPES.sub("", shown(console))

    assert "asking the untuned model first" in picture()
    display.update(after(Budget(164)))
    assert "0:41 left" in picture()
    now = 131.0
    assert "0:10 left" in picture()
    now = 200.0
    assert "finishing" in picture()
    display.finish()
    assert "finishing" not in picture()


# ------------------------------------------------------------------ plans and texts


def test_the_plan_names_model_budget_examples_and_search_space() -> None:
    settings = Settings(recipe="search", budget="2M tokens", population=7, dimension=30)
    line = plan_line("fake", SPLIT, settings)
    for part in ("fake:", "2000000 tokens", "4 training", "3 development", "2 classes"):
        assert part in line
    assert "λ = 7, d = 30, cma-diagonal" in line


def test_the_plan_of_auto_speaks_of_views() -> None:
    settings = Settings(budget="2M tokens", max_queries_per_example=4)
    assert plan_line("fake", SPLIT, settings) == (
        "fake: 2000000 tokens at most, 4 training examples of 2 classes; several views of each, "
        "an answer takes at most 4 queries"
    )
    alone = settings.model_copy(update={"max_queries_per_example": 1})
    assert plan_line("fake", SPLIT, alone).endswith("an answer takes at most 1 query")


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_the_plan_says_that_every_seed_may_spend_the_budget(recipe: str) -> None:
    settings = Settings.of({"recipe": recipe, "budget": "2M tokens"})
    line = plan_line("fake", SPLIT, settings, seeds=3)
    assert "fake: 2000000 tokens at most for each of 3 seeds, 4 training" in line
    assert "seeds" not in plan_line("fake", SPLIT, settings)


def test_the_plan_says_when_nothing_is_searched() -> None:
    line = plan_line("fake", SPLIT, Settings(recipe="search", template="{text} It was {label}"))
    assert "output side alone" in line
    assert "λ" not in line


def test_the_plan_says_what_a_text_only_model_leaves_to_search() -> None:
    able = FakeBackend(accepts=()).capabilities
    search = Settings(recipe="search")
    assert "takes text only, so the output side" in plan_line("fake", SPLIT, search, able)
    assert "λ = 20" in plan_line("fake", SPLIT, search, FakeBackend().capabilities)


def test_the_plan_knows_money() -> None:
    priced = Settings(budget="$2.50", price_in=0.15, price_out=0.6)
    assert "fake: $2.50 at most" in plan_line("fake", SPLIT, priced)
    with pytest.raises(ConfigError, match="price_in"):
        plan_line("fake", SPLIT, Settings(budget="$2.50"))


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_the_plan_refuses_a_template_that_cannot_be_read(recipe: str) -> None:
    with pytest.raises(TemplateError):
        plan_line("fake", SPLIT, Settings.of({"recipe": recipe, "template": "{text}"}))


def test_text_is_never_read_as_markup() -> None:
    console = terminal()
    say(console, "no such folder: [red]data[/] :smile:")
    assert ESCAPES.sub("", shown(console)).strip() == "no such folder: [red]data[/] :smile:"


# ------------------------------------------------------------------ results


def rows_of(console: Console) -> dict[str, list[str]]:
    """The table rows by their first cell; cells are two spaces or more apart."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in shown(console).splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


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
        ("delta", "Kept: a soft prompt and a ridge head."),
    ],
)
def test_a_result_says_what_was_kept(chosen: str, expected: str) -> None:
    console = pipe()
    show_result(console, result(chosen=chosen))
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


# ------------------------------------------------------------------ results of auto


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


def shown_result(found: Json, width: int = 80) -> tuple[dict[str, list[str]], str]:
    console = Console(force_terminal=False, file=io.StringIO(), width=width, _environ={})
    show_result(console, found)
    return rows_of(console), shown(console)


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
    tables = [line for line in text.splitlines() if re.match(r"\s", line) or "  " in line]
    assert max(map(len, tables)) <= 80
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


# ------------------------------------------------------------------ forecasts


SEARCH = Cost(49, 490, 21_000, 980, 0.01246, generations=10)
DEARER = Cost(49, 490, 22_000, 980, 0.01296, generations=10)
TEST = Cost(1, 60, 2400, 120, 0.00144)


def forecast_rows(
    *starts: StartForecast, exact: bool = True, recipe: str = "search", seeds: int = 1
) -> tuple[dict[str, list[str]], str]:
    console = Console(force_terminal=False, file=io.StringIO(), width=140, _environ={})
    forecasts = dict.fromkeys(range(13, 13 + seeds), Forecast(starts, exact))
    show_forecasts(console, forecasts, recipe)
    return rows_of(console), shown(console)


def test_a_forecast_shows_search_and_test() -> None:
    rows, text = forecast_rows(
        StartForecast("one", DEARER, TEST, TEST + TEST),
        StartForecast("other", SEARCH, TEST, TEST + TEST),
    )
    assert "the run takes 10 generations" in text
    assert rows["search"] == ["49", "490", "21,000 – 22,000", "980", "$0.0125 – $0.013"]
    assert rows["test, no delta kept"] == ["1", "60", "2,400", "120", "$0.00144"]
    assert rows["test, a delta kept"] == ["2", "120", "4,800", "240", "$0.00288"]
    assert rows["together"] == [
        "50 – 51",
        "550 – 610",
        "23,400 – 26,800",
        "1,100 – 1,220",
        "$0.0139 – $0.0158",
    ]
    assert "Nothing was sent" in text
    assert "estimated" not in text


def test_a_forecast_leaves_out_what_is_not_there() -> None:
    search, none = replace(SEARCH, usd=None), Cost(0, 0, 0, 0, None)
    rows, text = forecast_rows(StartForecast(None, search, none, none), exact=False)
    assert set(rows) == {"calls", "search"}
    assert "$" not in text
    assert "estimated" in text
    one = replace(TEST, usd=None)
    rows, _ = forecast_rows(StartForecast(None, search, one, one))
    assert rows["test"] == ["1", "60", "2,400", "120"]
    assert rows["together"] == ["50", "550", "23,400", "1,100"]


def test_a_forecast_of_auto_is_a_bound() -> None:
    tests = replace(TEST, calls=5, queries=300)
    start = StartForecast("one", replace(SEARCH, generations=0), TEST, tests)
    rows, text = forecast_rows(start, recipe="auto")
    assert "the run costs at most:" in text
    assert "generations" not in text
    assert rows["tuning"] == ["49", "490", "21,000", "980", "$0.0125"]
    assert rows["test, 5 queries each"] == ["5", "300", "2,400", "120", "$0.00144"]
    assert rows["together"] == ["54", "790", "23,400", "1,100", "$0.0139"]
    rows, _ = forecast_rows(StartForecast("one", SEARCH, TEST, TEST), recipe="auto")
    assert rows["test"][0] == "1"


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_a_forecast_of_several_seeds_adds_them_up(recipe: str) -> None:
    start = StartForecast("one", SEARCH, TEST, TEST + TEST)
    rows, text = forecast_rows(start, recipe=recipe, seeds=3)
    assert list(rows)[1:] == ["seed 13", "seed 14", "seed 15", "together"]
    assert rows["seed 14"][:2] == ["50 – 51", "550 – 610"]
    assert rows["together"][:3] == ["150 – 153", "1,650 – 1,830", "70,200 – 77,400"]
    assert ("each run takes 10 generations" in text) == (recipe == "search")
    assert ("the runs cost at most" in text) == (recipe == "auto")


def test_a_narrow_terminal_cuts_no_forecast_off() -> None:
    large = Cost(1377, 110_160, 4_978_070, 123_456, 2.49, 67)
    larger = Cost(1541, 123_280, 4_988_070, 234_567, 2.5, 75)
    test = Cost(1, 200, 8051, 400, 0.004)
    console = Console(force_terminal=False, file=io.StringIO(), width=80, _environ={})
    starts = (StartForecast("a", large, test, test), StartForecast("b", larger, test, test))
    show_forecasts(console, {0: Forecast(starts, exact=True)}, "search")
    assert "…" not in shown(console)
    for number in ("1,377", "1,541", "4,978,070", "4,988,070", "123,456", "234,567", "$2.49"):
        assert number in shown(console)


def test_metrics_show_every_class() -> None:
    console = pipe()
    show_metrics(console, Metrics(0.75, 0.7, 0.61, 8, {"[good]": 1.0, "bad": 0.5}))
    rows = rows_of(console)
    assert rows["8 examples"] == ["score"]
    assert rows["accuracy"] == ["0.750"]
    assert rows["macro-F1"] == ["0.700"]
    assert rows["log loss"] == ["0.610"]
    assert rows["recall of [good]"] == ["1.000"]
    assert rows["recall of bad"] == ["0.500"]


def test_test_examples_that_were_learned_from_are_named() -> None:
    known = "3 of 240 test examples are training examples too: the score flatters."
    assert known in shown_result(views_result(known_in_test=3, test_n=240), 200)[1]
    assert "flatters" not in shown_result(views_result(known_in_test=0))[1]
