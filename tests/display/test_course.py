"""The course of a search, read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import ESCAPES, pipe, shown, terminal

from blackbox_delta.budget import Budget
from blackbox_delta.display import LiveDisplay, progress_line, search_display, seconds_left
from blackbox_delta.prices import Prices
from blackbox_delta.tuner import Progress
from blackbox_delta.types import Usage


def after(budget: Budget, *, calls: int = 82, seconds: float = 41.0) -> Progress:
    budget.charge(Usage(queries=96 * calls, tokens=3000 * calls, seconds=seconds), calls=calls)
    return Progress(4, 0.52134, 0.8125, budget)


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


def test_replies_that_name_no_label_are_told_while_they_come() -> None:
    budget = Budget(300)
    assert "label" not in progress_line(after(budget))
    budget.charge(Usage(queries=96, unparsed=90), calls=1)
    assert ", 90 replies without a label, " in progress_line(Progress(4, 0.5, 0.8, budget))


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
