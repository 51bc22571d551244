"""A run that was cut off anywhere ends as if nothing had happened, and pays nothing twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import pytest

from blackbox_delta.api import tune
from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import BackendError
from blackbox_delta.history import read_history
from blackbox_delta.report import time_free
from blackbox_delta.runs import HISTORY_NAME, JOURNAL_NAME, RESULT_NAME, read_result
from blackbox_delta.types import Json

SUPPORT = str(files("blackbox_delta.data") / "support")
GIVEN: dict[str, dict[str, Any]] = {
    "search": {
        "shots": 2,
        "dimension": 20,
        "soft_tokens": 3,
        "population": 4,
        "budget": "27 calls",
    },
    # Enough for other words and for demonstrations.
    "auto": {"shots": 4, "budget": "12 calls"},
}


def run(
    folder: Path, recipe: str, *, resume: bool = False, budget: str | None = None, **knobs: Any
) -> FakeBackend:
    """Runs or goes on; returns the model, which knows what it answered."""
    backend = FakeBackend(**knobs)
    given = {**GIVEN[recipe], "recipe": recipe, "max_test": 10}
    if budget is not None:
        given["budget"] = budget
    tune(backend, SUPPORT, out=folder, resume=resume, **given)
    return backend


def rows(folder: Path) -> int:
    """Pairs in the journal, none before there is one."""
    if not (folder / JOURNAL_NAME).exists():
        return 0
    with closing(sqlite3.connect(folder / JOURNAL_NAME)) as journal:
        tables = journal.execute("SELECT name FROM sqlite_master").fetchall()
        if ("replies",) not in tables:
            return 0
        return int(journal.execute("SELECT count(*) FROM replies").fetchone()[0])


@dataclass(frozen=True)
class Ending:
    """What a finished run leaves behind, times aside."""

    result: Json
    history: list[Json]
    artifact: dict[str, bytes]
    rows: int

    @classmethod
    def of(cls, folder: Path) -> Ending:
        result = read_result(folder)
        assert result is not None
        history = [time_free(record) for record in read_history(folder / HISTORY_NAME)]
        artifact = {name: (folder / name).read_bytes() for name in (JSON_NAME, ARRAYS_NAME)}
        return cls(time_free(result), history, artifact, rows(folder))


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing went wrong with.

    Attributes:
        recipe: Which it was.
        ending: What it left behind.
        calls: Requests that the model answered.
    """

    recipe: str
    ending: Ending
    calls: int

    def go_on(self, folder: Path) -> Ending:
        """Resumes to the end, and sees to it that no answered pair is paid again."""
        before = rows(folder)
        paid = run(folder, self.recipe, resume=True).queries
        ending = Ending.of(folder)
        assert before + paid == ending.rows
        return ending


@pytest.fixture(scope="module", params=list(GIVEN))
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    backend = run(folder, request.param)
    ending = Ending.of(folder)
    result = ending.result
    assert ending.rows == backend.queries == result["queries"] + result["test_queries"]
    assert len(ending.history) > (4 if request.param == "search" else 2)
    assert backend.calls > 9
    return Undisturbed(request.param, ending, backend.calls)


# ------------------------------------------------------------------------- failing models


@pytest.mark.parametrize("fault", ["fail_at", "nan_at"])
@pytest.mark.parametrize("call", [1, 2, 3, 6, 7, 9, "last"])
def test_a_failed_call_stops_the_run_and_resuming_ends_it_alike(
    call: int | str, fault: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    number = undisturbed.calls if call == "last" else call
    with pytest.raises(BackendError):
        run(tmp_path, undisturbed.recipe, **{fault: [number]})
    assert not (tmp_path / RESULT_NAME).exists()
    assert (rows(tmp_path) > 0) == (number != 1)
    assert undisturbed.go_on(tmp_path) == undisturbed.ending


def test_a_model_that_fails_again_and_again_gets_there_in_the_end(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    counts = [0]
    for _ in range(3):
        with pytest.raises(BackendError):
            run(tmp_path, undisturbed.recipe, resume=True, fail_at=[3])
        counts.append(rows(tmp_path))
    assert counts == sorted(set(counts)), "every start went further than the one before"
    assert undisturbed.go_on(tmp_path) == undisturbed.ending


def test_a_finished_run_asks_nothing_and_reports_the_same(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run(tmp_path, undisturbed.recipe)
    result = read_result(tmp_path)
    assert run(tmp_path, undisturbed.recipe, resume=True).calls == 0
    assert Ending.of(tmp_path) == undisturbed.ending
    again = read_result(tmp_path)
    assert result is not None
    assert again is not None
    for name in ("backend_seconds", "test_seconds"):
        assert again[name] == result[name], "the recorded times, not those of the replay"


@pytest.mark.parametrize("recipe", GIVEN)
def test_a_budget_in_seconds_is_replayed_as_it_was_spent(recipe: str, tmp_path: Path) -> None:
    """How far such a run gets depends on the machine; a replay gets as far as the run did."""
    run(tmp_path, recipe, budget="1 s", delay=0.005)
    ending = Ending.of(tmp_path)
    assert len(ending.history) > 1
    assert run(tmp_path, recipe, resume=True, budget="1 s").calls == 0
    assert Ending.of(tmp_path) == ending


# ------------------------------------------------------------------------- SIGKILL

# Loads everything once; then every line "DELAY FOLDER" is a run in a fork that lives so long.
# The arguments are this folder, the recipe, a folder to warm up in, and the model's delay.
NURSERY = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_resume import run
recipe, warm_up, delay = sys.argv[2:4] + [float(sys.argv[4])]
run(Path(warm_up), recipe, delay=delay)
start = time.perf_counter()
run(Path(warm_up + "-again"), recipe, delay=delay)
print(time.perf_counter() - start, flush=True)
for line in sys.stdin:
    life, folder = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if not child:
        try:
            run(Path(folder), recipe, resume=True, delay=delay)
        finally:
            os._exit(0)
    time.sleep(float(life))
    os.kill(child, signal.SIGKILL)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Nursery:
    """A process whose children run and are killed.

    Attributes:
        seconds: How long an undisturbed run takes there.
    """

    stdin: IO[str]
    stdout: IO[str]
    seconds: float

    def kill_after(self, delay: float, folder: Path) -> bool:
        """Whether the run was killed; it may have ended before."""
        print(f"{delay} {folder}", file=self.stdin, flush=True)
        return self.stdout.readline() == "9\n"


@pytest.fixture(scope="module")
def nursery(
    undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nursery]:
    warm_up = str(tmp_path_factory.mktemp("nursery") / "run")
    here = str(Path(__file__).parent)
    # Slow enough that most of the run is asking, so that kills fall into all its stages.
    delay = {"search": "0.003", "auto": "0.06"}[undisturbed.recipe]
    command = [sys.executable, "-c", NURSERY, here, undisturbed.recipe, warm_up, delay]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Nursery(process.stdin, process.stdout, float(process.stdout.readline()))
        process.stdin.close()


def test_killed_at_any_moment_it_ends_alike(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(0)
    killed, counts = 0, set()
    for number in range(12):
        folder = tmp_path / str(number)
        killed += nursery.kill_after(rng.uniform(0, 1.05) * nursery.seconds, folder)
        counts.add(rows(folder))
        assert undisturbed.go_on(folder) == undisturbed.ending
    assert killed >= 6
    assert len(counts) >= 4, "the kills fell into different stages"


def test_killed_again_and_again_it_ends_alike(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(1)
    counts = []
    for _ in range(8):
        nursery.kill_after(rng.uniform(0, 0.4) * nursery.seconds, tmp_path)
        counts.append(rows(tmp_path))
    assert counts == sorted(counts), "nothing that was paid is ever lost"
    assert undisturbed.go_on(tmp_path) == undisturbed.ending
