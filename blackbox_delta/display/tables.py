"""What all tables share, and those of scores and of what a run will cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.prices import dollars
from blackbox_delta.tasks import Metrics

#: Columns of a table that is written into a file or a pipe.
_WIDE = 160
_SIZES = ("calls", "queries", "tokens", "output_tokens")


def say(console: Console, message: str, style: str = "") -> None:
    """Prints plain text; lines are broken on a terminal only, and nothing is read as markup."""
    console.print(Text(message, style), soft_wrap=not console.is_terminal)


def new_table(first: str, *columns: str) -> Table:
    """A table whose columns after the first hold numbers."""
    table = Table(box=SIMPLE)
    table.add_column(first, overflow="fold")
    add_numbers(table, *columns)
    return table


def add_numbers(table: Table, *columns: str) -> None:
    """Adds columns of numbers, of which no digit is cut off where there is little room."""
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")


def show_table(console: Console, table: Table) -> None:
    """Prints a table; where there is no terminal, as wide as it must be, so no cell is broken."""
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDE, force_terminal=False, color_system=None)
    console.print(table)


def counted(number: float, what: str) -> str:
    """``1 view``, ``6 views``, ``6 queries``, ``6.5 calls``."""
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{rounded(number)} {what if number == 1 else several}"


def rounded(value: float) -> str:
    """Whole numbers as such; parts of a call to tenths."""
    return f"{value:,.1f}".removesuffix(".0")


def show_metrics(console: Console, metrics: Metrics) -> None:
    """Scores on labelled examples, with the recall of each class."""
    table = new_table(counted(metrics.n, "example"), "score")
    scores = {
        "accuracy": metrics.accuracy,
        "macro-F1": metrics.macro_f1,
        "log loss": metrics.log_loss,
        **{f"recall of {label}": value for label, value in metrics.recall.items()},
    }
    for name, value in scores.items():
        table.add_row(Text(name), f"{value:.3f}")
    show_table(console, table)


# ------------------------------------------------------------------ forecasts


def show_forecasts(console: Console, forecasts: Mapping[int, Forecast], recipe: str) -> None:
    """What a run will cost, or one run a seed. Costs that differ stand from the least to the most.

    Args:
        console: Where to print.
        forecasts: By seed; one of them is shown in its parts.
        recipe: The setting: ``auto`` may stop before it has spent what is shown.
    """
    first, *others = forecasts.values()
    rows = list(_rows_of_seeds(forecasts) if others else _rows(first.starts, recipe))
    money = first.starts[0].search.usd is not None
    table = new_table("", "calls", "queries", "prompt tokens", "written tokens ≤")
    if money:
        add_numbers(table, "cost")
    for name, costs in rows:
        columns = [_span(getattr(cost, size) for cost in costs) for size in _SIZES]
        prices = [cost.usd for cost in costs if cost.usd is not None]
        columns += [_span(prices, dollars)] if money else []
        table.add_row(name, *columns)
    say(console, _heading(list(forecasts.values()), recipe))
    show_table(console, table)
    if not first.exact:
        say(console, "Tokens are estimated: the server's own count may differ.")
    say(console, "Nothing was sent.")


def _heading(forecasts: Sequence[Forecast], recipe: str) -> str:
    one = len(forecasts) == 1
    if recipe == "auto":
        runs = "the run costs" if one else "the runs cost"
        return f"If no query is lost, {runs} at most:"
    generations = _span(
        start.search.generations for forecast in forecasts for start in forecast.starts
    )
    runs = "the run takes" if one else "each run takes"
    what = "generation" if generations == "1" else "generations"
    return f"If no query is lost, {runs} {generations} {what} and costs:"


def _rows(starts: tuple[StartForecast, ...], recipe: str) -> Iterator[tuple[str, list[Cost]]]:
    yield ("tuning" if recipe == "auto" else "search"), [start.search for start in starts]
    if not starts[0].test_least.queries:
        return
    least, most = [start.test_least for start in starts], [start.test_most for start in starts]
    if least == most:
        yield "test", least
    elif recipe == "auto":
        # A call asks one view about every test example.
        yield f"test, {max(cost.calls for cost in most)} queries each", most
    else:
        yield "test, no delta kept", least
        yield "test, a delta kept", most
    cheapest = [] if recipe == "auto" else [start.least for start in starts]
    yield "together", [*cheapest, *(start.most for start in starts)]


def _rows_of_seeds(forecasts: Mapping[int, Forecast]) -> Iterator[tuple[str, list[Cost]]]:
    """Search and test together, seed by seed, and their sums."""
    least, most = [], []
    for seed, forecast in forecasts.items():
        costs = [cost for start in forecast.starts for cost in (start.least, start.most)]
        yield f"seed {seed}", costs
        least.append(_each(min, costs))
        most.append(_each(max, costs))
    yield "together", [_sum(least), _sum(most)]


def _each(extreme: Callable[[Iterable[Any]], Any], costs: Sequence[Cost]) -> Cost:
    """The least or the most of each figure: fewest tokens may well be most queries."""
    figures = zip(*(astuple(cost) for cost in costs), strict=True)
    found: list[Any] = [None if None in figure else extreme(figure) for figure in figures]
    return Cost(*found)


def _sum(costs: Sequence[Cost]) -> Cost:
    total, *others = costs
    for cost in others:
        total = total + cost
    return total


def _span(values: Iterable[float], shown: Callable[[float], str] = "{:,}".format) -> str:
    """The value, or the least and the largest of them."""
    ordered = sorted(values)
    # With spaces, so that a narrow column breaks it and does not cut it off.
    return " – ".join(dict.fromkeys((shown(ordered[0]), shown(ordered[-1]))))
