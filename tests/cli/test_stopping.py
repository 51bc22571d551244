"""Signals that come while what an earlier one stopped is cleaned up."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator

import pytest
import typer
from rich.console import Console

from blackbox_delta.cli import stopping
from blackbox_delta.cli.stopping import stoppable

TOLD = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """As in a fresh process, whatever runs the tests has decided."""
    fresh = dict.fromkeys(TOLD, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {each: signal.signal(each, handler) for each, handler in fresh.items()}
    yield
    assert {each: signal.getsignal(each) for each in TOLD} == fresh, "they are put back"
    for each, handler in before.items():
        signal.signal(each, handler)


def told_twice(first: signal.Signals, second: signal.Signals) -> tuple[int, list[str], str]:
    """The exit code, what was booked after the first, and what was said."""
    booked: list[str] = []
    said = io.StringIO()

    def working() -> None:
        try:
            os.kill(os.getpid(), first)
        finally:
            os.kill(os.getpid(), second)
            booked.append("what was under way")

    with pytest.raises(typer.Exit) as ended, stoppable("go on", Console(file=said)):
        working()
    return ended.value.exit_code, booked, said.getvalue()


@pytest.mark.parametrize("second", TOLD)
@pytest.mark.parametrize("first", TOLD)
def test_being_told_again_at_once_is_the_same_telling(
    first: signal.Signals, second: signal.Signals
) -> None:
    assert told_twice(first, second) == (
        128 + first,
        ["what was under way"],
        "Stopped; go on.\n",
    )


def test_who_insists_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ECHO", 0.0)
    assert told_twice(signal.SIGTERM, signal.SIGINT) == (130, [], "Stopped; go on.\n")


def test_who_has_decided_otherwise_is_left_in_peace() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stoppable("go on", Console(file=io.StringIO())):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
