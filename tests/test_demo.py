"""The demonstration, on the toy model: the real one takes minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blackbox_delta import demo
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli import app
from blackbox_delta.types import ScoreRequest, Scores, Sink


@pytest.fixture(autouse=True)
def toy_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs the demo in an empty folder on the toy model."""
    monkeypatch.chdir(tmp_path)
    # Some build servers make every stream look like a terminal, where lines are broken.
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(demo, "MODEL", "fake")


def refuse(*_: object, **__: object) -> FakeBackend:
    raise AssertionError("no model is to be opened")


class Interrupted(FakeBackend):
    """Presses Ctrl-C after three requests."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().score(request, sink)


def test_the_demo_shows_scores_costs_and_where_to_look_next() -> None:
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 0, done.output
    for part in ("200 test examples", "untuned", "calibrated", "tuned", "Kept: ", "Verdict: "):
        assert part in done.stdout
    assert done.stdout.endswith(demo.NEXT + "\n")
    for file in ("result.json", "history.jsonl"):
        assert (demo.RUN / file).is_file()
        assert f"{demo.RUN}/{file}" in demo.NEXT


def test_the_demo_stays_within_what_a_few_minutes_allow() -> None:
    CliRunner().invoke(app, ["demo"])
    result = json.loads((demo.RUN / "result.json").read_text())
    assert result["recipe"] == "auto"
    assert result["budget"] == demo.SETTINGS.budget == "8 calls"
    # Less than the next view would have taken is left.
    assert 7 < result["calls"] <= 8
    assert {part["part"] for part in result["parts"]} >= {"the default view", "further views"}
    most = demo.SETTINGS.max_queries_per_example
    assert 1 < result["queries_per_answer"] <= most
    assert result["test_queries"] <= (most + 1) * result["test_n"]


def test_a_finished_demo_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = CliRunner().invoke(app, ["demo"])
    monkeypatch.setattr("blackbox_delta.backends.open_backend", refuse)
    second = CliRunner().invoke(app, ["demo"])
    assert second.exit_code == 0, second.output
    assert second.stdout == first.stdout
    assert demo.AGAIN in second.stderr
    assert demo.AGAIN not in first.stderr


def test_a_stopped_demo_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.backends.fake.FakeBackend", Interrupted)
        stopped = CliRunner().invoke(app, ["demo"])
    assert stopped.exit_code == 130
    assert "Stopped; the same command goes on." in stopped.stderr
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 0, done.output
    assert "Verdict: " in done.stdout


def test_a_strange_demo_folder_is_left_alone() -> None:
    demo.RUN.mkdir()
    notes = demo.RUN / "notes.txt"
    notes.write_text("mine")
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 1
    assert f"delete the folder {demo.RUN}" in done.stderr
    assert notes.read_text() == "mine"
