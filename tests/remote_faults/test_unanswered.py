"""Whole runs through a server that leaves some texts unanswered, however often it is asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FILTERING, Fault, FaultyServer, Plan
from scenes import TEXT, TOP_TOKENS, Scene, access
from typer.testing import CliRunner

from blackbox_delta import tune
from blackbox_delta.cli import app
from blackbox_delta.errors import RejectedError
from blackbox_delta.journal import summarise
from blackbox_delta.report import time_free
from blackbox_delta.runs import JOURNAL_NAME
from blackbox_delta.types import Json

pytestmark = pytest.mark.usefixtures("no_waiting")

UNANSWERED = [*sorted(FILTERING, key=lambda fault: fault.value), Fault.ENDED_AT_ONCE]
#: One text a request, so that what is stopped is stopped alone.
ALONE = replace(TOP_TOKENS, access=access("top-tokens", preset="generic", batch=1))


def stopping(texts: Collection[str], fault: Fault) -> Plan:
    """Stops every request that holds one of these texts."""

    def plan(_number: int, prompts: list[str]) -> Fault | None:
        return fault if any(text in prompt for text in texts for prompt in prompts) else None

    return plan


def run(server: FaultyServer, scene: Scene, table: Path, out: Path, **more: Any) -> Json:
    with closing(scene.backend(server, table)) as backend:
        tuned = tune(backend, scene.data, out=out, **scene.settings, **more)
    return time_free(tuned.result)


@pytest.mark.parametrize(
    "fault", [*sorted(FILTERING, key=lambda fault: fault.value), Fault.ENDED_AT_ONCE]
)
@pytest.mark.parametrize("scene", [ALONE, TEXT], ids=lambda scene: scene.name)
def test_a_run_goes_on_without_them(
    scene: Scene, fault: Fault, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In training and in the test: each question is put once, counted, and replayed on resuming.

    Ollama and llama-cpp-python show nothing of an answer that the model ends at once.
    """
    stopped = [scene.data.train[0].text, scene.data.test[-1].text]
    with FaultyServer(plan=stopping(stopped, fault)) as server:
        result = run(server, scene, table, tmp_path / "run")
        asked = server.received.copy()
        assert run(server, scene, table, tmp_path / "run", resume=True) == result
        assert server.received == asked
        assert server.faults.total() > 1
    assert asked.total() == result["queries"] + result["test_queries"]
    assert result["lost_queries"] == result["test_lost_queries"] == 0
    unparsed = result["unparsed_replies"] + result["test_unparsed_replies"]
    assert summarise(tmp_path / "run" / JOURNAL_NAME).total.usage.unparsed == unparsed
    if scene is ALONE:  # answers in words may name no label for reasons of their own
        assert unparsed == server.faults.total()
        assert result["test_unparsed_replies"] > 0
    warned = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    if fault is Fault.ENDED_AT_ONCE:
        assert not warned
    else:
        assert "a content filter stopped" in warned[0]
        assert len(warned) <= 2


def test_texts_that_come_with_one_that_is_stopped_are_answered(table: Path, tmp_path: Path) -> None:
    """The same result as if each had been asked about alone."""
    stopped = [TOP_TOKENS.data.train[0].text, TOP_TOKENS.data.test[-1].text]
    results = []
    for scene in (TOP_TOKENS, ALONE):
        with FaultyServer(plan=stopping(stopped, Fault.FILTERED)) as server:
            results.append(run(server, scene, table, tmp_path / str(scene.access.batch)))
    assert results[0] == results[1]


def test_a_filter_that_stops_nothing_changes_nothing(table: Path, tmp_path: Path) -> None:
    results = []
    for name in ("without", "with"):
        plan = stopping(["no text holds this"], Fault.FILTERED)
        with FaultyServer(**({} if name == "without" else {"plan": plan})) as server:
            results.append(run(server, TOP_TOKENS, table, tmp_path / name))
    assert results[0] == results[1]


def test_a_filter_that_stops_everything_ends_the_run_early(table: Path, tmp_path: Path) -> None:
    with FaultyServer(plan=lambda _number, _prompts: Fault.FILTERED) as server:
        with pytest.raises(RejectedError, match="stopped all of 20 questions"):
            run(server, TOP_TOKENS, table, tmp_path / "run")
        assert server.received.total() < 120
        # Once the filter is off, the run can go on, though what was stopped stays so in it.
        server.plan = lambda _number, _prompts: None
        assert run(server, TOP_TOKENS, table, tmp_path / "run", resume=True)["test_n"] == 80


def test_a_budget_pays_for_what_is_stopped(table: Path, tmp_path: Path) -> None:
    """Azure bills it."""
    scene = replace(
        ALONE,
        settings={**TOP_TOKENS.settings, "budget": "60 queries"},
        data=replace(TOP_TOKENS.data, test=()),
    )
    stopped = [example.text for example in scene.data.train[::3]]
    with FaultyServer(plan=stopping(stopped, Fault.FILTERED)) as server:
        result = run(server, scene, table, tmp_path / "run")
    assert server.received.total() == result["queries"] <= 60


def test_predict_answers_all_the_texts(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyServer() as server:
        run(server, TOP_TOKENS, table, tmp_path / "run")
        texts = [example.text for example in TOP_TOKENS.data.test[:9]]
        file = tmp_path / "texts.txt"
        file.write_text("\n".join(texts))
        server.plan = stopping([texts[4]], Fault.FILTERED)
        done = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), str(file)])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == texts
    assert [line.get("unanswered") for line in lines] == [None] * 4 + [True] + [None] * 4
    assert "To 1 of 9 texts the model named no label; their lines say" in done.stderr
    [record] = caplog.records
    assert "a content filter stopped 1 of" in record.getMessage()
    assert texts[4] in record.getMessage()
