from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from comparing import film_task, ignore

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.grid import Comparison, Grid, Position, shared_template
from blackbox_delta.compare.methods import Contender, Rates
from blackbox_delta.compare.specs import Spec
from blackbox_delta.compare.store import Store
from blackbox_delta.errors import (
    AuthorisationError,
    BlackBoxDeltaError,
    ConfigError,
    DataError,
    JournalError,
    RejectedError,
    RemoteError,
    RunError,
)
from blackbox_delta.tasks import TaskData
from blackbox_delta.types import Backend, Capabilities, Json

Act = Callable[[Trial], None]


@dataclass
class Stub:
    """A method that answers at random, remembers its trials, and does what a test wants."""

    name: str = "stub"
    rates: Rates = None
    act: Act = field(default=lambda trial: None)
    trials: list[Trial] = field(default_factory=list)
    setting: int = 0

    @property
    def settings(self) -> Json:
        return {"setting": self.setting, "rates": self.rates}

    def run(self, trial: Trial, step: Step) -> Measured:
        self.trials.append(trial)
        self.act(trial)
        rng = np.random.default_rng(trial.seed)
        answers = rng.normal(size=(len(trial.split.test), 2))
        train = rng.normal(size=(len(trial.split.train), 2))
        details: Json = {"learning_rate": 0.1 * trial.seed, "given": self.rates}
        return Measured(answers, train, 3, 24, 240, 1.5, 1, 10, details=details)


class Silent:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def begin(self, position: Position) -> Step:
        self.begun.append(str(position))
        return ignore

    def end(self, position: Position, finding: Finding) -> None:
        self.ended.append(f"{position}: {'refused' if finding.refusal else 'done'}")


def contender(stub: Stub, text: str = "stub", **flags: bool) -> Contender:
    def make(rates: Rates) -> Stub:
        return replace(stub, rates=rates, trials=stub.trials)

    return Contender(Spec.parse(text), make, **flags)


def grid(*contenders: Contender, tasks: tuple[TaskData, ...] | None = None, shots: int = 4) -> Grid:
    return Grid(tasks or (film_task(),), contenders, (13, 21), shots, max_test=10)


def run(
    cells: Grid, out: Path, backend: Backend | None = None, watcher: Silent | None = None
) -> tuple[Finding, ...]:
    return Comparison(cells, out).run(backend or FakeBackend(), watcher or Silent())


def times(stub: Stub) -> int:
    return len(stub.trials)


# ------------------------------------------------------------------------- cells


def test_every_cell_is_worked_on_in_the_grid_s_order(tmp_path: Path) -> None:
    tasks = (film_task("a", 0), film_task("b", 1))
    watcher = Silent()
    found = run(
        grid(contender(Stub(), "x"), contender(Stub(), "y"), tasks=tasks), tmp_path, None, watcher
    )
    keys = [(each.task, each.method, each.seed) for each in found]
    assert keys == [(t, m, s) for t in "ab" for m in "xy" for s in (13, 21)]
    assert watcher.ended == [f"{t} {m} seed {s}: done" for t, m, s in keys]
    assert all(each.measured is not None and each.peak_bytes > 10**7 for each in found)


class Served(FakeBackend):
    """The toy model as if it were called on a server."""

    def __init__(self, url: str = "http://127.0.0.1:1") -> None:
        super().__init__()
        self._url = url

    @property
    def address(self) -> Json:
        return {"endpoint": {"base_url": self._url}}

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "endpoint": self._url}


def test_a_server_s_cells_are_its_own(tmp_path: Path) -> None:
    stub = Stub()
    for url, expected in (("http://one/v1", 2), ("http://two/v1", 4), ("http://one/v1", 4)):
        run(grid(contender(stub)), tmp_path, Served(url))
        assert times(stub) == expected


def test_all_seeds_and_shots_answer_the_same_test_examples(tmp_path: Path) -> None:
    few, many = Stub(), Stub()
    run(grid(contender(few), contender(many, "stub@8")), tmp_path)
    tests = {trial.split.test for trial in (*few.trials, *many.trials)}
    assert len(tests) == 1
    assert len(tests.pop()) == 10
    trains = [trial.split.train for trial in few.trials]
    assert trains[0] != trains[1]
    assert [len(trial.split.train) for trial in (*few.trials, *many.trials)] == [8, 8, 16, 16]
    # More shots are the same ones and others.
    assert set(few.trials[0].split.train) < set(many.trials[0].split.train)


def test_the_test_seed_draws_the_test_examples(tmp_path: Path) -> None:
    stub = Stub()
    run(grid(contender(stub)), tmp_path)
    run(replace(grid(contender(stub)), test_seed=1), tmp_path)
    assert len({trial.split.test for trial in stub.trials}) == 2


def test_a_trial_holds_what_a_method_needs(tmp_path: Path) -> None:
    stub = Stub()
    run(grid(contender(stub)), tmp_path)
    first, second = stub.trials
    assert (first.model, first.seed, second.seed) == ("fake", 13, 21)
    assert first.template == "Text: {text}\nIn one word, it is {label}"
    assert first.folder != second.folder
    assert first.folder.is_dir()


def test_a_chat_model_gets_a_template_that_asks() -> None:
    able = Capabilities(frozenset(), False, False, 0, chat=True)
    assert "{options}" in shared_template(able, pairs=False)
    assert "{soft" not in shared_template(replace(able, chat=False), pairs=True)


# ------------------------------------------------------------------------ caching


def test_finished_cells_are_read_not_run_again(tmp_path: Path) -> None:
    stub, watcher = Stub(), Silent()
    first = run(grid(contender(stub)), tmp_path)
    again = run(grid(contender(stub)), tmp_path, None, watcher)
    assert times(stub) == 2
    assert watcher.begun == []
    assert len(watcher.ended) == 2
    assert [each.to_json() for each in again] == [each.to_json() for each in first]


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: replace(cells, shots=5),
        lambda cells: replace(cells, max_test=9),
        lambda cells: replace(cells, test_seed=1),
        lambda cells: replace(cells, tasks=(film_task("films", 7),)),
        lambda cells: replace(cells, contenders=(contender(Stub(setting=1)),)),
    ],
)
def test_whatever_a_cell_depends_on_makes_it_another(
    change: Callable[[Grid], Grid], tmp_path: Path
) -> None:
    cells = grid(contender(Stub()))
    run(cells, tmp_path)
    watcher = Silent()
    run(change(cells), tmp_path, None, watcher)
    assert len(watcher.begun) == 2


class Halved(FakeBackend):
    """The same model in another precision."""

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "dtype": "torch.bfloat16"}


def test_a_cell_keeps_the_precision_that_it_was_measured_in(tmp_path: Path) -> None:
    """Cells of several machines can be put together; each says what it is."""
    stub = Stub()
    cells = grid(contender(stub))
    first = run(replace(cells, seeds=cells.seeds[:1]), tmp_path)
    again = run(cells, tmp_path, Halved())
    assert times(stub) == 2
    assert [each.dtype for each in (*first, *again)] == ["float64", "float64", "bfloat16"]


def test_another_model_has_cells_of_its_own(tmp_path: Path) -> None:
    stub = Stub()
    run(grid(contender(stub)), tmp_path)
    run(grid(contender(stub)), tmp_path, FakeBackend("fake:other"))
    assert times(stub) == 4


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    def stop(trial: Trial) -> None:
        if trial.seed == 21:
            raise KeyboardInterrupt

    stub = Stub()
    with pytest.raises(KeyboardInterrupt):
        run(grid(contender(replace(stub, act=stop, trials=stub.trials))), tmp_path)
    assert times(stub) == 2
    run(grid(contender(stub)), tmp_path)
    assert [trial.seed for trial in stub.trials] == [13, 21, 21]
    assert stub.trials[1].folder == stub.trials[2].folder


def test_a_method_s_own_mistake_is_not_hidden(tmp_path: Path) -> None:
    def fail(_trial: Trial) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(grid(contender(Stub(act=fail))), tmp_path)


def test_replies_are_shared_by_all_cells(tmp_path: Path) -> None:
    backend = FakeBackend()
    cells = grid(Contender.of(Spec("untuned")), Contender.of(Spec("calibrated")))
    run(cells, tmp_path, backend)
    # 10 test examples once, and the training examples of both seeds once.
    train = {each for seed in (13, 21) for each in cells.split(cells.tasks[0], seed).train}
    asked = backend.queries
    assert asked == 10 + len(train)
    run(replace(cells, contenders=(Contender.of(Spec("calibrated")),)), tmp_path, backend)
    assert backend.queries == asked


# ----------------------------------------------------------------------- refusals


def refuse(trial: Trial) -> None:
    raise ConfigError(f"not with seed {trial.seed}")


def test_a_refusal_is_recorded_and_the_comparison_goes_on(tmp_path: Path) -> None:
    other = Stub()
    found = run(grid(contender(Stub(act=refuse), "shy"), contender(other)), tmp_path)
    assert [each.refusal for each in found] == ["not with seed 13", "not with seed 21", None, None]
    assert found[0].measured is None
    files = [json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()]
    said = {content["finding"]["refusal"] for content in files}
    assert said == {"not with seed 13", "not with seed 21", None}


def test_what_was_refused_is_tried_again(tmp_path: Path) -> None:
    run(grid(contender(Stub(act=refuse))), tmp_path)
    found = run(grid(contender(Stub())), tmp_path)
    assert [each.refusal for each in found] == [None, None]


@pytest.mark.parametrize("error", [RemoteError, AuthorisationError, JournalError])
def test_what_every_method_would_meet_ends_the_comparison(
    error: type[BlackBoxDeltaError], tmp_path: Path
) -> None:
    def act(trial: Trial) -> None:
        if trial.seed == 21:
            raise error("no credit left")

    stub, watcher = Stub(), Silent()
    with pytest.raises(error, match="no credit left"):
        run(grid(contender(replace(stub, act=act, trials=stub.trials))), tmp_path, None, watcher)
    assert watcher.ended == ["films stub seed 13: done"]
    assert len(list((tmp_path / "cells").iterdir())) == 1
    found = run(grid(contender(stub)), tmp_path)
    assert [trial.seed for trial in stub.trials] == [13, 21, 21]
    assert [each.refusal for each in found] == [None, None]


def test_what_a_server_does_not_do_for_a_method_is_its_refusal(tmp_path: Path) -> None:
    def act(_trial: Trial) -> None:
        raise RejectedError("the prompt is too long")

    found = run(grid(contender(Stub(act=act), "long"), contender(Stub())), tmp_path)
    said = "the prompt is too long"
    assert [each.refusal for each in found] == [said, said, None, None]


@pytest.mark.parametrize("bad", [np.zeros((10, 3)), np.zeros((9, 2)), np.full((10, 2), np.nan)])
def test_answers_that_are_none_are_refused(bad: np.ndarray, tmp_path: Path) -> None:
    @dataclass
    class Broken(Stub):
        def run(self, trial: Trial, step: Step) -> Measured:
            return replace(super().run(trial, step), log_proba=bad)

    found = run(grid(contender(Broken())), tmp_path)
    assert all("stub answered" in str(each.refusal) for each in found)


def test_a_probability_of_zero_can_be_kept(tmp_path: Path) -> None:
    @dataclass
    class Certain(Stub):
        def run(self, trial: Trial, step: Step) -> Measured:
            sure = np.array([[0.0, -np.inf]] * 10)
            return replace(super().run(trial, step), log_proba=sure)

    run(grid(contender(Certain())), tmp_path)
    [found, _] = run(grid(contender(Certain())), tmp_path)
    assert found.measured is not None
    assert found.measured.log_proba.argmax(axis=1).tolist() == [0] * 10


def test_a_method_that_opens_the_model_is_refused_on_a_server(tmp_path: Path) -> None:
    stub = Stub()
    cells = grid(contender(stub, "lora", needs_weights=True), contender(Stub(), "other"))
    found = run(cells, tmp_path, Served())
    assert times(stub) == 0
    assert "lora needs the model's weights" in str(found[0].refusal)
    assert found[2].refusal is None


# ------------------------------------------------------------------ learning rates


def test_the_learning_rate_is_chosen_on_the_first_seed(tmp_path: Path) -> None:
    tasks = (film_task("a", 0), film_task("b", 1))
    found = run(grid(contender(Stub(), takes_rate=True), tasks=tasks), tmp_path)
    given = [each.measured and each.measured.details["given"] for each in found]
    assert given == [None, (1.3,), None, (1.3,)]
    again = run(grid(contender(Stub(), takes_rate=True), tasks=tasks), tmp_path)
    assert again[1].measured
    assert again[1].measured.details["given"] == [1.3]


def test_after_a_refusal_the_other_seeds_choose_for_themselves(tmp_path: Path) -> None:
    def act(trial: Trial) -> None:
        if trial.seed == 13:
            refuse(trial)

    found = run(grid(contender(Stub(act=act), takes_rate=True)), tmp_path)
    assert found[0].refusal
    assert found[1].measured
    assert found[1].measured.details["given"] is None


# ------------------------------------------------------------------ several at once


def test_a_cell_that_is_being_worked_on_is_left_and_then_waited_for(tmp_path: Path) -> None:
    """Another one holds the first cell until the second is begun; it is then read, not run."""
    stub, second_begun = Stub(), threading.Event()
    out, held = tmp_path, threading.Event()

    def other() -> None:
        def wait(trial: Trial) -> None:
            held.set()
            assert second_begun.wait(20)

        run(replace(grid(contender(Stub(act=wait))), seeds=(13,)), out)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(20)

    def tell(_trial: Trial) -> None:
        second_begun.set()

    watcher = Silent()
    mine = contender(replace(stub, act=tell, trials=stub.trials))
    found = run(grid(mine), out, None, watcher)
    thread.join()
    assert [trial.seed for trial in stub.trials] == [21]
    assert watcher.begun == ["films stub seed 21"]
    assert [each.refusal for each in found] == [None, None]


def test_two_comparisons_on_one_folder_share_the_work(tmp_path: Path) -> None:
    stub, results = Stub(), []
    threads = [
        threading.Thread(target=lambda: results.append(run(grid(contender(stub)), tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(trial.seed for trial in stub.trials) == {13: 1, 21: 1}
    assert len(results) == 2


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"tasks": ()}, ConfigError, "tasks"),
        ({"seeds": ()}, ConfigError, "seeds"),
        ({"tasks": (film_task("a", 0), film_task("a", 1))}, ConfigError, "'a'"),
        ({"tasks": (replace(film_task("a", 0), test=()),)}, DataError, "a has no test part"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    change: Json, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        replace(grid(contender(Stub())), **change)


def test_too_few_examples_are_found_before_anything_is_done(tmp_path: Path) -> None:
    stub = Stub()
    with pytest.raises(DataError, match="too few"):
        run(grid(contender(stub), shots=11), tmp_path / "out")
    assert times(stub) == 0
    assert not (tmp_path / "out").exists()


def test_a_method_s_own_shots_may_leave_less_for_development(tmp_path: Path) -> None:
    stub = Stub()
    run(grid(contender(stub, "stub@15")), tmp_path)
    split = stub.trials[0].split
    assert (len(split.train), len(split.dev)) == (30, 10)
    assert not set(split.train) & set(split.dev)


def test_too_few_examples_for_a_method_s_own_shots_are_its_refusal(tmp_path: Path) -> None:
    stub = Stub()
    found = run(grid(contender(stub), contender(Stub(), "stub@64")), tmp_path)
    assert times(stub) == 2
    assert [each.refusal is None for each in found] == [True, True, False, False]
    assert "too few different examples" in str(found[2].refusal)
    assert found[2].shots == 64


def test_shots_that_leave_nothing_for_development_are_a_refusal_that_says_so(
    tmp_path: Path,
) -> None:
    found = run(grid(contender(Stub(), "stub@20")), tmp_path)
    said = "films: 20 training examples of every class leave none of one of them for development"
    assert [said in str(each.refusal) for each in found] == [True, True]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"finding": {}}',
        '{"finding": {}, "identity": {}}',
        '{"finding": {"measured": 3}, "identity": {}}',
        '{"finding": {}, "identity": 3}',
    ],
)
def test_a_damaged_cell_is_named(content: str, tmp_path: Path) -> None:
    run(grid(contender(Stub())), tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_text(content)
    with pytest.raises(RunError, match="delete it") as caught:
        run(grid(contender(Stub())), tmp_path)
    assert str(path) in str(caught.value)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("years of work")
    with pytest.raises(RunError, match="holds no comparison; choose an empty or a new folder"):
        Comparison(grid(contender(Stub())), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert report.read_text() == "years of work"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(RunError, match="file"):
        Store(path).prepare()
