"""What a terminal shows of a result: scores, what was kept and why, costs, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blackbox_delta.display.tables import add_numbers, counted, new_table, say, show_table
from blackbox_delta.prices import dollars
from blackbox_delta.types import Json

#: Who was scored, and how result.json calls it.
_SCORED = {"untuned": "untuned", "calibrated": "baseline", "tuned": "test"}
#: Rows of the table of queries, beyond which only powers of two are shown.
_MOST_STEPS = 8


def show_result(console: Console, result: Json) -> None:
    """The content of ``result.json`` for a reader: scores, what was kept, costs, verdict."""
    say(console, f"{result['model']}, {result['shots']}-shot, seed {result['seed']}")
    if result["test_n"]:
        show_table(console, _accuracy_table(result))
    else:
        say(console, _without_test(result))
    say(console, f"Kept: {_kept(result)}.")
    if result["chosen"] == "views":
        _show_views(console, result)
    say(console, _costs(result))
    for note in _notes(result):
        say(console, note)
    say(console, f"Verdict: {result['verdict']}", "bold")


def show_seeds_result(console: Console, result: Json) -> None:
    """The same for several seeds: scores of each, their mean, costs, verdict, what to use."""
    seeds = ", ".join(map(str, result["seeds"]))
    say(console, f"{result['model']}, {result['shots']}-shot, seeds {seeds}")
    estimates = [run["estimate"] for run in result["runs"]]
    if result["test_n"]:
        say(console, f"Accuracy on {counted(result['test_n'], 'test example')}:")
        show_table(console, _seeds_table(result))
    elif None not in estimates:
        table = new_table("training examples, held out", "estimated accuracy")
        for run in result["runs"]:
            table.add_row(f"seed {run['seed']}", f"{run['estimate']:.3f}")
        show_table(console, table)
    seconds = f"; {result['seconds']:.1f} s in all."
    say(console, _spent(result) + seconds)
    advice = result["recommended"]
    say(console, f"Recommended: {advice['folder']}, {advice['why']}.")
    say(console, f"Verdict: {result['verdict']}", "bold")


# ------------------------------------------------------------------ scores


def _accuracy_table(result: Json) -> Table:
    table = new_table(counted(result["test_n"], "test example"), "accuracy", "macro-F1")
    for name, key in _SCORED.items():
        scores = (result[f"{key}_accuracy"], result[f"{key}_macro_f1"])
        table.add_row(name, *(f"{score:.3f}" for score in scores))
    return table


def _seeds_table(result: Json) -> Table:
    table = new_table("", *_SCORED, "tuned, macro-F1")
    names = [*(f"{key}_accuracy" for key in _SCORED.values()), "test_macro_f1"]
    for run in result["runs"]:
        table.add_row(f"seed {run['seed']}", *(f"{run[name]:.3f}" for name in names))
    table.add_section()
    for row in ("mean", "deviation"):
        table.add_row(row, *(f"{result[row][name]:.3f}" for name in names))
    return table


def _without_test(result: Json) -> str:
    if result["chosen"] == "views" and result["estimate"] is None:
        return (
            f"{result['train_n']} training examples are too few to estimate the accuracy from; add "
            "a test part to measure it."
        )
    if result["chosen"] == "views":
        return (
            f"Estimated accuracy: {result['estimate']:.3f}, on the {result['train_n']} training "
            "examples, each answered by heads and weights from four fifths of the others. It is an "
            "estimate and no test: add a test part to measure."
        )
    return (
        f"Accuracy on {result['dev_n']} development examples, which the choice was made on: "
        f"calibrated {result['baseline_dev_accuracy']:.3f}, tuned {result['dev_accuracy']:.3f}"
    )


# ------------------------------------------------------------------ what was kept


def _kept(result: Json) -> str:
    head = result["head"]
    named = f"{'an' if head[0] in 'aeiou' else 'a'} {head} head"
    if result["chosen"] == "views":
        views = counted(len(result["views"]), "view")
        queries = counted(result["queries_per_answer"], "query")
        return f"{views} behind {named}; an answer takes {queries}"
    if result["chosen"] == "delta":
        searched = result["delta"]
        sizes = f"d = {searched['dimension']:,} of D = {searched['size']:,}"
        return f"{searched['kind']} ({sizes}) and {named}"
    return {
        "calibrated": "the calibrated untuned model, nothing tuned was clearly better",
        "head": f"the output side alone, {named}",
    }[result["chosen"]]


def _show_views(console: Console, result: Json) -> None:
    """What each part of the recipe cost and gave, and what each query of an answer gives."""
    say(console, "What it was spent on; accuracy and loss are held-out estimates after it:")
    show_table(console, _parts_table(result["parts"]))
    for part in result["parts"]:
        if "texts" in part:
            say(console, _lesson(part))
    steps = result["steps"]
    if len(steps) > 1:
        say(console, "What each further query of an answer buys, estimated likewise:")
        show_table(console, _steps_table(steps))


def _parts_table(parts: Sequence[Json]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("part", overflow="fold")
    add_numbers(table, "views", "dropped", "queries", "tokens", "accuracy", "loss")
    for name, group in groupby(parts, key=lambda part: part["part"]):
        alike = list(group)
        views = [sum(len(part[which]) for part in alike) for which in ("finished", "dropped")]
        costs = [sum(part[which] for part in alike) for which in ("queries", "tokens")]
        numbers = [f"{number:,}" for number in (*views, *costs)]
        table.add_row(Text(name), *numbers, *_estimates(alike[-1]))
    return table


def _lesson(part: Json) -> str:
    """What texts without labels were worth."""
    if not part["texts"]:
        return (
            "No unlabelled text was asked about: the budget had nothing left for them, or there "
            "are too few labelled examples to judge by what they teach."
        )
    texts, without = counted(part["texts"], "unlabelled text"), part["accuracy_without"]
    return (
        f"{texts}: held-out accuracy {without:.3f} without, "
        f"{part['accuracy_trained']:.3f} with what they taught, by cross-fitting; "
        f"{'kept' if part['kept'] else 'not kept, as that is no clear gain'}."
    )


def _steps_table(steps: Sequence[Json]) -> Table:
    table = new_table("queries an answer", "accuracy", "loss")
    for number, step in enumerate(steps, start=1):
        power_of_two = number & (number - 1) == 0
        if len(steps) <= _MOST_STEPS or power_of_two or number == len(steps):
            table.add_row(str(step["queries_per_answer"]), *_estimates(step))
    return table


def _estimates(found: Json) -> tuple[str, str]:
    return f"{found['held_out_accuracy']:.3f}", f"{found['held_out_loss']:.3f}"


# ------------------------------------------------------------------ costs


def _costs(result: Json) -> str:
    model = result["backend_seconds"] + result["test_seconds"]
    return (
        f"{_spent(result)}; {model:.1f} s in the model, {result['head_seconds']:.1f} s in heads, "
        f"{result['optimizer_seconds']:.1f} s in the optimizer."
    )


def _spent(result: Json) -> str:
    search, test = result.get("cost_usd"), result.get("test_cost_usd")
    calls, queries = counted(result["calls"], "call"), counted(result["queries"], "query")
    return (
        f"Cost: {calls} = {queries} = {counted(result['tokens'], 'token')}{_money(search)} for "
        f"tuning, {counted(result['test_queries'], 'query')}{_money(test)} for the test"
    )


def _money(cost: float | None) -> str:
    return "" if cost is None else f" = {dollars(cost)}"


def _notes(result: Json) -> Iterator[str]:
    """What a reader must know about replies and test part, where there is anything."""

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
        yield f"{unparsed:,} of {replies:,} replies named no label, or were stopped by a filter."
    known = result.get("known_in_test", 0)
    if known:
        yield (
            f"{known:,} of {counted(result['test_n'], 'test example')} are training examples too: "
            "the score flatters. Take them out of the test part."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "Less than 1 %"
