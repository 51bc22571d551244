"""The demonstration, on the toy model: the real one takes minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blackbox_delta import demo
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli import app
from blackbox_delta.tasks import DEFAULT_STARTS
from blackbox_delta.types import ScoreRequest, Scores, Sink


@pytest.fixture(autouse=True)
def toy_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs the demo in an empty folder on the toy model, whose soft prompts are small."""
    monkeypatch.chdir(tmp_path)
    # Some build servers make every stream look like a terminal, where lines are broken.
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(demo, "MODEL", "fake")
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS.model_copy(update={"dimension": 20}))


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
    for part in ("200 test examples", "untuned", "calibrated", "tuned", "Cost: ", "Verdict: "):
        assert part in done.stdout
    assert done.stdout.endswith(demo.NEXT + "\n")
    for file in ("result.json", "history.jsonl"):
        assert (demo.RUN / file).is_file()
        assert f"{demo.RUN}/{file}" in demo.NEXT


def test_the_demo_spends_its_budget_to_the_last_call() -> None:
    CliRunner().invoke(app, ["demo"])
    result = json.loads((demo.RUN / "result.json").read_text())
    # Every start once and the better one's development examples; the last look takes two calls.
    starts = len(DEFAULT_STARTS)
    assert result["calls"] == starts + 1 + 3 * demo.SETTINGS.population + 2 == 65
    assert result["budget"] == "65 calls"


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
