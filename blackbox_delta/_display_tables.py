"""What a terminal shows of a result, of scores, and of what a run will cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blackbox_delta.forecast import Cost, Forecast, StartForecast
from blackbox_delta.prices import dollars
from blackbox_delta.tasks import Metrics
from blackbox_delta.types import Json

#: What a run may decide to keep, by ``result["chosen"]``.
KEPT = {
    "calibrated": "the calibrated untuned model, nothing tuned was clearly better",
    "head": "the output side alone, a {head} head",
    "delta": "a soft prompt and a {head} head",
}


_SIZES = ("calls", "queries", "tokens", "output_tokens")


def say(console: Console, message: str, style: str = "") -> None:
    """Prints plain text; lines are broken on a terminal only, and nothing is read as markup."""
    console.print(Text(message, style), soft_wrap=not console.is_terminal)


def show_result(console: Console, result: Json) -> None:
    """The content of ``result.json`` for a reader: scores, what was kept, costs, verdict."""
    say(console, f"{result['model']}, {result['shots']}-shot, seed {result['seed']}")
    if result["test_n"]:
        console.print(_accuracy_table(result))
    else:
        say(
            console,
            f"Accuracy on {result['dev_n']} development examples, which the choice was made on: "
            f"calibrated {result['baseline_dev_accuracy']:.3f}, tuned {result['dev_accuracy']:.3f}",
        )
    say(console, f"Kept: {KEPT[result['chosen']].format(head=result['head'])}.")
    say(console, _costs(result))
    for note in _notes(result):
        say(console, note)
    say(console, f"Verdict: {result['verdict']}", "bold")


def _accuracy_table(result: Json) -> Table:
    table = _table(f"{result['test_n']} test examples", "accuracy", "macro-F1")
    for name, key in (("untuned", "untuned"), ("calibrated", "baseline"), ("tuned", "test")):
        scores = (result[f"{key}_accuracy"], result[f"{key}_macro_f1"])
        table.add_row(name, *(f"{score:.3f}" for score in scores))
    return table


def _costs(result: Json) -> str:
    model = result["backend_seconds"] + result["test_seconds"]
    search, test = result.get("cost_usd"), result.get("test_cost_usd")
    return (
        f"Cost: {result['calls']:,} calls = {result['queries']:,} queries = "
        f"{result['tokens']:,} tokens{_money(search)} for the search, "
        f"{result['test_queries']:,} queries{_money(test)} for the test; "
        f"{model:.1f} s in the model, {result['head_seconds']:.1f} s in heads, "
        f"{result['optimizer_seconds']:.1f} s in the optimizer."
    )


def _money(cost: float | None) -> str:
    return "" if cost is None else f" = {dollars(cost)}"


def _notes(result: Json) -> Iterator[str]:
    """What a reader must know about the replies, where there is anything."""

    def both(name: str) -> int:
        """Of search and test together; results of older versions lack some."""
        return int(result.get(name, 0) + result.get(f"test_{name}", 0))

    replies, lost = both("queries"), both("lost_queries")
    if lost:
        yield f"{lost:,} more queries were lost and sent again; they may be billed all the same."
    bounded = both("bounded_labels")
    if bounded:
        share = bounded / (replies * len(result["labels"]))
        yield (
            f"{_percent(share)} of the labels' log-probabilities are upper bounds: the label was "
            "not among the tokens that the model returned."
        )
    unparsed = both("unparsed_replies")
    if unparsed:
        yield f"{unparsed:,} of {replies:,} replies named no label."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "Less than 1 %"


def show_forecast(console: Console, forecast: Forecast) -> None:
    """What a run will cost. Where the starts differ, from the cheapest to the dearest."""
    money = forecast.starts[0].search.usd is not None
    table = _table("", "calls", "queries", "prompt tokens", "written tokens ≤")
    if money:
        table.add_column("cost", justify="right")
    for name, costs in _forecast_rows(forecast.starts):
        columns = [_span(getattr(cost, size) for cost in costs) for size in _SIZES]
        prices = [cost.usd for cost in costs if cost.usd is not None]
        columns += [_span(prices, dollars)] if money else []
        table.add_row(name, *columns)
    generations = _span(start.search.generations for start in forecast.starts)
    say(console, f"If no query is lost, the run takes {generations} generations and costs:")
    console.print(table)
    if not forecast.exact:
        say(console, "Tokens are estimated: the server's own count may differ.")
    say(console, "Nothing was sent.")


def _forecast_rows(starts: tuple[StartForecast, ...]) -> Iterator[tuple[str, list[Cost]]]:
    yield "search", [start.search for start in starts]
    if not starts[0].test_least.queries:
        return
    least, most = [start.test_least for start in starts], [start.test_most for start in starts]
    if least == most:
        yield "test", least
    else:
        yield "test, no delta kept", least
        yield "test, a delta kept", most
    yield "together", [cost for start in starts for cost in (start.least, start.most)]


def _span(values: Iterable[float], shown: Callable[[float], str] = "{:,}".format) -> str:
    """The value, or the least and the largest of them."""
    ordered = sorted(values)
    # With spaces, so that a narrow column breaks it and does not cut it off.
    return " – ".join(dict.fromkeys((shown(ordered[0]), shown(ordered[-1]))))


def show_metrics(console: Console, metrics: Metrics) -> None:
    """Scores on labelled examples, with the recall of each class."""
    table = _table(f"{metrics.n} examples", "score")
    scores = {
        "accuracy": metrics.accuracy,
        "macro-F1": metrics.macro_f1,
        "log loss": metrics.log_loss,
        **{f"recall of {label}": value for label, value in metrics.recall.items()},
    }
    for name, value in scores.items():
        table.add_row(Text(name), f"{value:.3f}")
    console.print(table)


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=SIMPLE)
    for column in columns:
        table.add_column(column, justify="right")
    return table
