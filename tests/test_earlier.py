"""Earlier runs as a search space: what is read, what is refused, and what a run remembers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from blackbox_delta.api import forecast, tune
from blackbox_delta.artifact import JSON_NAME, Artifact
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli import app
from blackbox_delta.earlier import read_earlier
from blackbox_delta.errors import (
    ArtifactError,
    BlackBoxDeltaError,
    ConfigError,
    FingerprintError,
    RunError,
)
from blackbox_delta.estimator import BlackBoxClassifier
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.runs import RUN_NAME
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import draw_split, load_task
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Backend

SUPPORT = str(files("blackbox_delta.data") / "support")
SPLIT = draw_split(load_task(SUPPORT), shots=2, seed=0, max_test=10)
TEMPLATE = "{text} {soft:3} It was {label}"
GIVEN: dict[str, Any] = {
    "recipe": "search",
    "shots": 2,
    "template": TEMPLATE,
    "population": 4,
    "budget": "30 calls",
    "max_test": 10,
}


def finished(
    folder: Path, number: int, backend: Backend | None = None, z: float = 2.0, **given: Any
) -> Path:
    """A run that kept a delta, whatever a search would have found."""
    backend = backend or FakeBackend()
    settings = Settings.of({**GIVEN, "dimension": 20, "seed": number, **given})
    problem = build_problem(backend, SPLIT, settings)
    [seen] = backend.score(problem.request(problem.train.prompts, None, 100))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    moved = z * np.random.default_rng(number).standard_normal(20)
    member = Member("delta", problem.reader, head, 1.0, problem.frame, moved)
    Artifact.of(backend, [member]).save(folder / str(number))
    return folder / str(number)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [finished(tmp_path / "earlier", number) for number in (1, 2, 3)]


def test_a_direction_is_theta_less_its_start_in_units_of_the_delta(runs: list[Path]) -> None:
    backend = FakeBackend()
    for run, earlier in zip(runs, read_earlier(backend, runs), strict=True):
        [member] = Artifact.load(run).rebuild(backend)
        assert member.frame is not None
        assert member.delta is not None
        [slot] = member.delta.tensors.values()
        moved = slot.reshape(-1).astype(np.float64) - member.frame.delta.origin
        np.testing.assert_array_equal(earlier.direction, moved / member.frame.delta.scale)
        assert earlier.name == str(run)


@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_both_recipes_search_it(recipe: str, runs: list[Path], tmp_path: Path) -> None:
    given = {**GIVEN, "recipe": recipe, "subspace_from": runs, "dimension": 8}
    given["soft_tokens"] = 3  # for the words that auto adds too
    if recipe == "auto":
        del given["population"]
    tuned = tune(FakeBackend(), SPLIT, out=tmp_path / "run", **given)
    texts = ["my parcel is late", "the invoice is wrong"]
    again = TunedModel.load(tmp_path / "run", backend=FakeBackend())
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


def test_its_dimension_is_the_number_of_runs_unless_more_is_asked_for(runs: list[Path]) -> None:
    for asked, expected in ((None, 3), (3, 3), (10, 10)):
        given = {**GIVEN, "subspace_from": runs, "dimension": asked}
        found = tune(FakeBackend(), SPLIT, **given).result["delta"]
        assert (found["subspace"], found["dimension"]) == ("learned", expected)


def test_a_saved_delta_needs_no_earlier_run(runs: list[Path], tmp_path: Path) -> None:
    backend = FakeBackend()
    earlier = read_earlier(backend, runs)
    problem = build_problem(backend, SPLIT, Settings.of(GIVEN), earlier)
    assert problem.frame is not None
    [seen] = backend.score(problem.request(problem.train.prompts, None, 100))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    member = Member("delta", problem.reader, head, 1.0, problem.frame, np.array([3.0, -1.0, 2.0]))
    Artifact.of(backend, [member]).save(tmp_path / "saved")
    for run in runs:
        (run / JSON_NAME).unlink()
    [again] = Artifact.load(tmp_path / "saved").rebuild(FakeBackend())
    assert again.delta is not None
    assert member.delta is not None
    assert again.delta.digest(0) == member.delta.digest(0)
    origin = problem.frame.delta.origin
    moved = problem.frame.subspace.project(np.eye(3), origin) - origin
    first = earlier[0].direction  # the first direction is the first run's
    cosine = moved[0] @ first / np.linalg.norm(moved[0]) / np.linalg.norm(first)
    assert cosine == pytest.approx(1, abs=1e-5)


def test_a_resumed_run_notices_another_basis(runs: list[Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {**GIVEN, "subspace_from": runs[:2], "out": tmp_path / "run"}
    result = tune(FakeBackend(), SPLIT, **given).result
    described = json.loads((tmp_path / "run" / RUN_NAME).read_text())
    assert len(described["subspace_from"]) == 2
    resumed = FakeBackend()
    assert tune(resumed, SPLIT, resume=True, **given).result["delta"] == result["delta"]
    assert resumed.calls == 0
    finished(tmp_path / "earlier", 1, z=3.0)  # the folder now holds another run
    with pytest.raises(RunError, match=r"another run \(subspace_from: other earlier runs"):
        tune(FakeBackend(), SPLIT, resume=True, **given)


def without_delta(folder: Path) -> Path:
    artifact = Artifact.load(finished(folder, 4))
    bare = replace(artifact.members[0], delta=None, subspace=None, z=None, checksum=None)
    Artifact(artifact.model, artifact.fingerprint, (bare,)).save(folder / "4")
    return folder / "4"


@pytest.mark.parametrize(
    ("make", "given", "error", "message"),
    [
        (lambda at: at / "none", {}, ArtifactError, "there is no artifact.json in .*none"),
        (without_delta, {}, ConfigError, "run in .*4 kept no delta, so it spans nothing"),
        (
            lambda at: finished(at, 4, FakeBackend("fake:other")),
            {},
            FingerprintError,
            "run in .*4 tuned 'fake:other', and 'fake' has other weights",
        ),
        (
            lambda at: finished(at, 4, template="{text} {soft:5} It was {label}"),
            {},
            ConfigError,
            "4 tuned a soft-prompt of 80 numbers, and here a soft-prompt of 48 is tuned",
        ),
        (
            lambda at: finished(at, 4, template="{text} {soft:1} it {soft:2} was {label}"),
            {},
            ConfigError,
            "of the same size, but of other tensors",
        ),
        (
            lambda at: finished(at, 4, z=0.0),
            {},
            ConfigError,
            "4 kept no delta, so it spans nothing",
        ),
        (
            lambda at: finished(at, 4),
            {"template": "{text} It was {label}"},
            ConfigError,
            "none is tuned here, .*; write {soft}",
        ),
        (lambda at: finished(at, 4), {"dimension": 1}, ConfigError, "1 is less than the 2 dir"),
        (lambda at: finished(at, 4), {"subspace": "sparse"}, ConfigError, "give one of the two"),
        (
            lambda at: finished(at, 4),
            {"optimizer": "divide-and-conquer"},
            ConfigError,
            "take the subspace 'blocks'",
        ),
    ],
)
@pytest.mark.parametrize("call", [tune, forecast])
def test_what_cannot_be_built_upon_is_refused_before_anything_is_asked(
    call: Callable[..., Any],
    make: Callable[[Path], Path],
    given: dict[str, Any],
    error: type[BlackBoxDeltaError],
    message: str,
    tmp_path: Path,
) -> None:
    folders = [finished(tmp_path, 1), make(tmp_path)]
    backend = FakeBackend()
    with pytest.raises(error, match=message):
        call(backend, SPLIT, **{**GIVEN, "subspace_from": folders, **given})
    assert backend.calls == 0


def test_a_damaged_delta_is_named_with_its_run(tmp_path: Path) -> None:
    artifact = Artifact.load(finished(tmp_path, 1))
    damaged = replace(artifact.members[0], checksum="0" * 64)
    replace(artifact, members=(damaged,)).save(tmp_path / "1")
    with pytest.raises(ArtifactError, match=r"the run in .*1 cannot be built upon: .*rebuilt"):
        read_earlier(FakeBackend(), [tmp_path / "1"])


def test_a_folder_of_several_seeds_says_which_to_take(tmp_path: Path) -> None:
    finished(tmp_path / "runs", 1)
    described = {"recommended": {"folder": "seed-1", "seed": 1}, "seeds": [1, 2]}
    (tmp_path / "runs" / "result.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="several seeds"):
        read_earlier(FakeBackend(), [tmp_path / "runs"])


def test_an_empty_list_and_a_single_text_are_no_lists_of_runs() -> None:
    for wrong in ([], "runs/a"):
        with pytest.raises(ConfigError, match="subspace_from = "):
            Settings.of({"subspace_from": wrong})
    assert Settings.of({"subspace_from": (Path("a"), "b")}).subspace_from == ["a", "b"]


def test_on_the_command_line_each_run_is_named_on_its_own(runs: list[Path], tmp_path: Path) -> None:
    named = [part for run in runs for part in ("--subspace-from", str(run))]
    options = ["--recipe", "search", "--shots", "2", "--population", "4", "--budget", "30 calls"]
    options += ["--max-test", "10", "--out", str(tmp_path / "run")]
    where = ["tune", "--model", "fake", "--data", SUPPORT, "--template", TEMPLATE]
    done = CliRunner().invoke(app, [*where, *options, *named])
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "run" / RUN_NAME).read_text())["settings"]
    assert settings["subspace_from"] == list(map(str, runs))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["delta"]["subspace"] == "learned"


def test_the_estimator_passes_them_on(runs: list[Path]) -> None:
    texts = [example.text for example in SPLIT.train]
    labels = [example.label for example in SPLIT.train]
    given = {"template": TEMPLATE, "soft_tokens": 3, "budget": "30 calls", "random_state": 0}
    model = BlackBoxClassifier("fake", subspace_from=runs, **given).fit(texts, labels)
    assert len(model.predict(texts)) == len(texts)
    with pytest.raises(ArtifactError, match="no artifact"):
        BlackBoxClassifier("fake", subspace_from=["nowhere"], **given).fit(texts, labels)
