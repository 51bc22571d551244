"""What is wrong is found before a model is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import blackbox_delta.api
from blackbox_delta.api import forecast, tune
from blackbox_delta.errors import (
    BlackBoxDeltaError,
    BudgetError,
    ConfigError,
    JournalError,
    RunError,
    TemplateError,
    VerbalizerError,
)
from blackbox_delta.tasks import task_from_lists

DATA = task_from_lists(["good", "nice", "fine", "bad", "dull", "long"], [*"aaabbb"])


@pytest.fixture(autouse=True)
def _unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_model: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(blackbox_delta.api, "opened", opened)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"head": "foo"}, ConfigError, "no head called 'foo'"),
        ({"optimizer": "foo"}, ConfigError, "no optimizer 'foo'"),
        ({"label_words": {"a": " yes"}}, VerbalizerError, "no word for: b"),
        ({"template": "{text}"}, TemplateError, "label"),
        ({"budget": "many"}, ConfigError, "budget"),
        ({"budget": "$2"}, BlackBoxDeltaError, "price"),
        ({"budget": "1 query"}, BudgetError, "examples takes 2 queries; give at least 2"),
    ],
)
@pytest.mark.parametrize("call", [tune, forecast])
def test_settings_are_checked_first(
    call: Any, settings: dict[str, Any], error: type[BlackBoxDeltaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        call("fake", DATA, shots=1, **settings)


def test_places_are_checked_first(tmp_path: Path) -> None:
    file, full = tmp_path / "full" / "file", tmp_path / "full"
    full.mkdir()
    file.write_text("not a journal")
    for out, message in ((full, "is not empty"), (file / "run", "is a file")):
        with pytest.raises(RunError, match=message):
            tune("fake", DATA, shots=1, out=out)
    with pytest.raises(JournalError, match="not a database"):
        tune("fake", DATA, shots=1, out=tmp_path / "new", cache=file)
    assert sorted(tmp_path.iterdir()) == [full]


def test_what_is_sound_goes_on_to_the_model(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the model was opened"):
        tune("fake", DATA, shots=1, out=tmp_path / "new", cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())
