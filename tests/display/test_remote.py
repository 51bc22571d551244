"""What is shown of servers and of what they were paid, read back."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import pipe, shown

from blackbox_delta.backends.remote import Access, Endpoint
from blackbox_delta.backends.remote.endpoint import TIERS, plain
from blackbox_delta.backends.remote.probe import Finding, Probe
from blackbox_delta.display import (
    access_line,
    asking_line,
    show_probe,
    show_spending,
    spent_line,
)
from blackbox_delta.display.remote import next_command
from blackbox_delta.journal import Spending, Summary
from blackbox_delta.types import Usage

URL = "http://127.0.0.1:8000/v1"
FINDINGS = (
    Finding("API", "completions", good=True),
    Finding("embeddings in", "refused: [not] enabled", good=False),
    Finding("round trip", "0.012 s"),
)


def access(tier: str = "top-tokens") -> Access:
    return Access.of({"preset": "generic", "api": "completions", "tier": tier})


def found(endpoint: Endpoint, model: str = "small", tier: str = "top-tokens") -> Probe:
    return Probe(endpoint, model, FINDINGS, access(tier), 19)


def test_a_probe_shows_findings_tier_and_what_comes_next() -> None:
    console = pipe()
    show_probe(console, found(Endpoint(base_url=URL)))
    text = shown(console)
    assert re.search(r"^\s*API\s+completions\s+yes\s*$", text, re.MULTILINE)
    # Nothing that a server says is read as markup.
    assert re.search(r"embeddings in\s+refused: \[not\] enabled\s+no", text)
    assert re.search(r"round trip\s+0\.012 s\s*$", text, re.MULTILINE)
    assert "Asked 19 queries." in text
    assert (
        f"Next: blackbox-delta tune --base-url {URL} --model small --data FOLDER --out RUN" in text
    )


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_is_explained(tier: str) -> None:
    console = pipe()
    show_probe(console, found(Endpoint(base_url=URL), tier=tier))
    assert re.search(rf"Tier: {tier} \(.{{20,}}\)", shown(console))
    endpoint = Endpoint(base_url=URL)
    line = access_line({"endpoint": plain(endpoint), "access": plain(access(tier))})
    assert line.startswith(f"{URL}: completions API, tier {tier} (")


def test_a_long_finding_breaks_within_the_terminal() -> None:
    console, words = pipe(), "refused: " + "the server says no " * 20
    probe = Probe(Endpoint(base_url=URL), "m", (Finding("API", words),), access(), 1)
    show_probe(console, probe)
    table, _, _ = shown(console).partition("Asked ")
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("says no") + table.count("says\n") >= 15, "nothing is cut off"


#: What a shell would take apart, or take for an option of its own.
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1).filter(
    lambda name: not name.startswith("-")
)


@given(model=NAMES, key_file=NAMES, concurrency=st.integers(1, 1024))
def test_the_next_command_says_everything_that_was_chosen(
    model: str, key_file: str, concurrency: int
) -> None:
    endpoint = Endpoint.of(
        {
            "base_url": URL,
            "preset": "vllm",
            "tier": "text",
            "key_file": key_file,
            "concurrency": concurrency,
            "requests_per_minute": 90,
            "timeout": 7.5,
        }
    )
    _, _, *words = shlex.split(next_command(found(endpoint, model)))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options.pop("--data") == "FOLDER"
    assert options.pop("--out") == "RUN"
    assert options.pop("--model") == model
    given_again = {name.removeprefix("--").replace("-", "_"): it for name, it in options.items()}
    assert Endpoint.of(given_again) == endpoint


def test_spending_is_shown_by_purpose_within_the_terminal() -> None:
    console = pipe()
    usage = Usage(12_345, 1_234_567, 1_034_567, 123.45, 12_345, 12, bounded=7, unparsed=2)
    total = Spending("", 3, usage + usage)
    show_spending(
        console, Summary((Spending("development", 3, usage), Spending("", 0, usage)), total)
    )
    text = shown(console)
    numbers = r"12,345\s+3\s+12\s+1,234,567\s+1,034,567\s+12,345\s+123\.5"
    assert re.search(rf"development\s+{numbers}", text)
    assert re.search(r"\(none\)\s+12,345\s+0\s", text)
    assert re.search(r"total\s+24,690\s+3\s+24\s+2,469,134\s+2,069,134\s+24,690\s+246\.9", text)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "3 replies came from a shared cache and cost nothing." in text
    assert "14 label log-probabilities are upper bounds." in text
    assert "4 replies named no label, or were stopped by a filter." in text


def test_spending_says_no_more_than_it_must() -> None:
    console = pipe()
    spent = Spending("search", 0, Usage(5, 50, 50, 0.1, 5))
    show_spending(console, Summary((spent,), Spending("", 0, spent.usage)))
    for word in ("cache and", "bound", "named no label"):
        assert word not in shown(console)


def test_what_answering_takes_is_one_line() -> None:
    assert asking_line("small", 1, 1) == "small: 1 text, 1 query each"
    assert asking_line("small", 1200, 3) == "small: 1,200 texts, 3 queries each, 3,600 in all"
    assert spent_line(Usage(queries=1, tokens=1)) == "Sent: 1 query, 1 prompt token."
    assert spent_line(Usage(queries=1200, tokens=34567, output_tokens=1200, lost=2)) == (
        "Sent: 1,200 queries, 34,567 prompt tokens, 1,200 tokens written; "
        "2 more were lost and may be billed all the same."
    )
