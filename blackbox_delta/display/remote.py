"""Tables about servers and what they were paid: a probe's findings, a journal's summary."""

from __future__ import annotations

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blackbox_delta.backends.remote.probe import Probe
from blackbox_delta.display.tables import add_numbers, counted, say, show_table
from blackbox_delta.journal import Spending, Summary
from blackbox_delta.types import Json, Usage

_MARKS = {True: ("yes", "green"), False: ("no", "red"), None: ("", "")}
_TIERS = {
    "embeddings": "embeddings in: soft prompts are tuned through the API",
    "label-logprobs": "text in, the label words' log-probabilities out",
    "top-tokens": "text in, the likeliest tokens' log-probabilities out",
    "text": "text in, text out: answers are read by a rule",
}


def show_probe(console: Console, probe: Probe) -> None:
    """What a server offers, the tier that follows, and the command to run next."""
    table = Table("", "found", "", box=SIMPLE)
    for finding in probe.findings:
        mark, style = _MARKS[finding.good]
        table.add_row(Text(finding.what), Text(finding.found), Text(mark, style))
    console.print(table)
    say(console, f"Asked {probe.queries} queries.")
    say(console, f"Tier: {probe.access.tier} ({_TIERS[probe.access.tier]})", "bold")
    say(console, f"Next: {next_command(probe)}")


def next_command(probe: Probe) -> str:
    """How to tune through this server; data and run folder are left to fill in."""
    endpoint = probe.endpoint.model_dump(mode="json", exclude_defaults=True)
    options = {"base_url": endpoint.pop("base_url"), "model": probe.model, **endpoint}
    given = [f"--{name.replace('_', '-')} {shlex.quote(str(it))}" for name, it in options.items()]
    return f"blackbox-delta tune {' '.join(given)} --data FOLDER --out RUN"


def access_line(address: Json) -> str:
    """How a server is used, in one line.

    Args:
        address: :attr:`blackbox_delta.types.Backend.address` of a model on it.
    """
    endpoint, access = address["endpoint"], address["access"]
    tier = access["tier"]
    return f"{endpoint['base_url']}: {access['api']} API, tier {tier} ({_TIERS[tier]})"


def asking_line(model: str, texts: int, ways: int) -> str:
    """What answering will take, in one line.

    Args:
        model: Its name.
        texts: How many are to be answered.
        ways: In how many ways each is asked about.
    """
    asked = f"{counted(texts, 'text')}, {counted(ways, 'query')} each"
    return f"{model}: {asked}" if ways == 1 else f"{model}: {asked}, {texts * ways:,} in all"


def spent_line(usage: Usage) -> str:
    """What was sent to a server, in one line."""
    written = f", {counted(usage.output_tokens, 'token')} written" if usage.output_tokens else ""
    lost = f"; {usage.lost:,} more were lost and may be billed all the same" if usage.lost else ""
    tokens = counted(usage.tokens, "prompt token")
    return f"Sent: {counted(usage.queries, 'query')}, {tokens}{written}{lost}."


def show_spending(console: Console, summary: Summary) -> None:
    """What was spent on what, one purpose a line."""
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("purpose", overflow="fold")
    add_numbers(table, "paid", "cached", "lost", "prompt tokens", "computed", "written", "seconds")
    for spending in summary.purposes:
        table.add_row(spending.purpose or "(none)", *_row(spending))
    table.add_section()
    table.add_row("total", *_row(summary.total))
    show_table(console, table)
    total = summary.total
    if total.cached:
        say(console, f"{total.cached:,} replies came from a shared cache and cost nothing.")
    if total.usage.bounded:
        say(console, f"{total.usage.bounded:,} label log-probabilities are upper bounds.")
    if total.usage.unparsed:
        unparsed = f"{total.usage.unparsed:,} replies"
        say(console, f"{unparsed} named no label, or were stopped by a filter.")


def _row(spending: Spending) -> list[str]:
    usage = spending.usage
    counts = (usage.queries, spending.cached, usage.lost)
    tokens = (usage.tokens, usage.computed_tokens, usage.output_tokens)
    return [f"{value:,}" for value in (*counts, *tokens)] + [f"{usage.seconds:.1f}"]
