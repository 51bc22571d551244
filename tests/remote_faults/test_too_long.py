"""Whole runs through a server that takes words alone, and finds some texts too long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_server import Fault, FaultyServer, Plan
from scenes import TOP_TOKENS

from blackbox_delta import tune
from blackbox_delta.errors import RejectedError
from blackbox_delta.report import time_free
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Example, Json

pytestmark = pytest.mark.usefixtures("no_waiting")

#: What stands behind each text, and the most characters that the server reads.
AFTER, MOST = " is", 60
#: Every text is asked about once, and nothing but itself stands before the answer.
SETTINGS = {"recipe": "search", "label_words": TOP_TOKENS.settings["label_words"], "budget": 20}


def fitting(most: int) -> Plan:
    """Refuses every request with a prompt of more characters than these."""
    return lambda _number, prompts: Fault.TOO_LONG if max(map(len, prompts)) > most else None


def changed(data: FewShotSplit, change: Callable[[str], str]) -> FewShotSplit:
    """The same with two other texts, one in training and one in the test."""

    def with_other(examples: tuple[Example, ...], at: int) -> tuple[Example, ...]:
        found = list(examples)
        found[at] = replace(found[at], text=change(found[at].text))
        return tuple(found)

    return replace(data, train=with_other(data.train, 2), test=with_other(data.test, -1))


def lengthened(text: str) -> str:
    return text + " terrible great and so on" * 9


def cut(text: str) -> str:
    """What is left of it after as many cuts as the server wants."""
    text = lengthened(text)
    while len(text + AFTER) > MOST:
        text = text[: len(text) * 3 // 4]
    return text


def run(server: FaultyServer, table: Path, out: Path, data: FewShotSplit, **more: object) -> Json:
    settings = {**SETTINGS, "template": f"{{text}}{AFTER} {{label}}", **more}
    with closing(TOP_TOKENS.backend(server, table)) as backend:
        return time_free(tune(backend, data, out=out, **settings).result)


def test_they_are_cut_until_they_fit(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the result of texts that were cut by hand; resuming asks nothing."""
    with FaultyServer() as server:
        expected = run(server, table, tmp_path / "by-hand", changed(TOP_TOKENS.data, cut))
    assert not caplog.records
    long = changed(TOP_TOKENS.data, lengthened)
    with FaultyServer(plan=fitting(MOST)) as server:
        found = run(server, table, tmp_path / "run", long)
        asked = server.received.copy()
        assert run(server, table, tmp_path / "run", long, resume=True) == found
        assert server.received == asked
        assert max(map(len, server.answered)) <= MOST
        assert server.faults[Fault.TOO_LONG] > 2
    assert found == expected
    assert found["lost_queries"] == found["test_lost_queries"] == 0
    [record] = caplog.records
    assert "texts that are longer than the model's context are cut" in record.getMessage()
    assert long.train[2].text[:10] in record.getMessage()


def test_a_template_that_is_too_long_alone_ends_the_run(table: Path, tmp_path: Path) -> None:
    template = "{text} " + "and so on " * 9 + "is {label}"
    with FaultyServer(plan=fitting(MOST)) as server:
        with pytest.raises(RejectedError, match="maximum context length .* it was asked about"):
            run(server, table, tmp_path / "run", TOP_TOKENS.data, template=template)
        assert not server.answered
        assert server.received.total() < 250
