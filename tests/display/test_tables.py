"""Scores and forecasts, read back."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from screens import ESCAPES, pipe, rows_of, shown, terminal

from blackbox_delta.display import say, show_forecasts, show_metrics
from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.tasks import Metrics


def test_text_is_never_read_as_markup() -> None:
    console = terminal()
    say(console, "no such folder: [red]data[/] :smile:")
    assert ESCAPES.sub("", shown(console)).strip() == "no such folder: [red]data[/] :smile:"


SEARCH = Cost(49, 490, 21_000, 980, 0.01246, generations=10)
DEARER = Cost(49, 490, 22_000, 980, 0.01296, generations=10)
TEST = Cost(1, 60, 2400, 120, 0.00144)


def forecast_rows(
    *starts: StartForecast, exact: bool = True, recipe: str = "search", seeds: int = 1
) -> tuple[dict[str, list[str]], str]:
    console = pipe(140)
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


def test_one_generation_is_one() -> None:
    start = StartForecast("one", replace(SEARCH, generations=1), TEST, TEST)
    _, text = forecast_rows(start, recipe="search")
    assert "the run takes 1 generation and costs" in text


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_a_forecast_of_several_seeds_adds_them_up(recipe: str) -> None:
    start = StartForecast("one", SEARCH, TEST, TEST + TEST)
    rows, text = forecast_rows(start, recipe=recipe, seeds=3)
    assert list(rows)[1:] == ["seed 13", "seed 14", "seed 15", "together"]
    assert rows["seed 14"][:2] == ["50 – 51", "550 – 610"]
    assert rows["together"][:3] == ["150 – 153", "1,650 – 1,830", "70,200 – 77,400"]
    assert ("each run takes 10 generations" in text) == (recipe == "search")
    assert ("the runs cost at most" in text) == (recipe == "auto")


def test_each_figure_of_several_seeds_has_bounds_of_its_own() -> None:
    """The start of the fewest tokens has the most queries."""
    free = Cost(0, 0, 0, 0, None)
    starts = (
        StartForecast("one", Cost(10, 900, 1000, 0, None, 3), free, free),
        StartForecast("other", Cost(9, 100, 2000, 0, None, 4), free, free),
    )
    rows, _ = forecast_rows(*starts, seeds=2)
    assert rows["together"][:3] == ["18 – 20", "200 – 1,800", "2,000 – 4,000"]


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


def test_no_figure_is_cut_off_where_there_is_little_room() -> None:
    console = terminal(40)
    show_forecasts(
        console, {13: Forecast((StartForecast("one", SEARCH, TEST, TEST),), True)}, "auto"
    )
    text = ESCAPES.sub("", shown(console))
    assert "…" not in text
    figures = [char for char in text if char.isdecimal()]
    wide = pipe(160)
    show_forecasts(wide, {13: Forecast((StartForecast("one", SEARCH, TEST, TEST),), True)}, "auto")
    assert sorted(figures) == sorted(char for char in shown(wide) if char.isdecimal())


def test_a_pipe_gets_whole_cells() -> None:
    console = pipe(30)
    show_forecasts(
        console, {13: Forecast((StartForecast("one", SEARCH, TEST, DEARER),), True)}, "search"
    )
    assert "test, no delta kept" in shown(console)
