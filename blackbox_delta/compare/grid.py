"""The grid of a comparison: tasks × methods × seeds, each cell worked on once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Protocol

from blackbox_delta.compare.cells import Cell, Finding
from blackbox_delta.compare.contract import Step, Trial
from blackbox_delta.compare.memory import PeakMemory
from blackbox_delta.compare.methods import Contender, Rates
from blackbox_delta.compare.store import Store
from blackbox_delta.errors import (
    BlackBoxDeltaError,
    ConfigError,
    DataError,
    JournalError,
    RejectedError,
    RemoteError,
    UnsupportedError,
)
from blackbox_delta.tasks import (
    DEFAULT_STARTS,
    FewShotSplit,
    TaskData,
    default_template,
    draw_split,
    sample_test,
)
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import Backend, Capabilities


@dataclass(frozen=True)
class Grid:
    """What is compared with what.

    All seeds and methods answer the same test examples.

    Attributes:
        tasks: Labelled sets with a test part.
        contenders: The methods.
        seeds: Of splits and methods; a learning rate is chosen on the first one.
        shots: Training examples per class, unless a method asks for another number.
        max_test: The most test examples; ``None`` for all.
        test_seed: What they are drawn with.

    Raises:
        ConfigError: There is nothing to compare, or two tasks have the same name.
        DataError: A task has no test part.
    """

    tasks: tuple[TaskData, ...]
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    shots: int = 16
    max_test: int | None = None
    test_seed: int = 0

    def __post_init__(self) -> None:
        if not (self.tasks and self.contenders and self.seeds):
            raise ConfigError("a comparison needs tasks, methods and seeds")
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"two tasks are called {twice[0]!r}; give them folders of other names"
            )
        for task in self.tasks:
            if not task.test:
                raise DataError(f"{task.name} has no test part to compare methods on")

    def split(self, task: TaskData, seed: int, shots: int | None = None) -> FewShotSplit:
        """The examples of a task with a seed.

        Args:
            task: One of the tasks.
            seed: One of the seeds.
            shots: If given, so many in place of the grid's. Where a class has not as many again
                for development, what it has is taken.

        Raises:
            ConfigError: Shots or seed make no sense.
            DataError: A class has too few examples.
        """
        if shots is None or task.dev is not None:
            drawn = draw_split(task, shots or self.shots, seed)
        else:
            drawn = _with_the_rest(task, shots, seed)
        test = sample_test(task.test, self.test_seed, self.max_test)
        return replace(drawn, test=test, test_seed=self.test_seed)

    def places(self) -> Iterator[Position]:
        """Every cell's, in the order in which they are worked on."""
        for each in product(self.tasks, self.contenders, self.seeds):
            yield Position(*each)

    def __len__(self) -> int:
        return len(self.tasks) * len(self.contenders) * len(self.seeds)


def _with_the_rest(task: TaskData, shots: int, seed: int) -> FewShotSplit:
    """A split whose development examples are what is left of the training part, k at most.

    Raises:
        ConfigError: The seed makes no sense.
        DataError: A class has too few examples, or none are left of it.
    """
    try:
        return draw_split(replace(task, dev=task.train), shots, seed)
    except DataError:
        draw_split(task, shots, seed, development=False)  # says what else is wrong
        raise DataError(
            f"{task.name}: {shots} training examples of every class leave none of one of them for "
            "development; ask for fewer, or add examples"
        ) from None


@dataclass(frozen=True)
class Position:
    """Where in the grid a cell is."""

    task: TaskData
    contender: Contender
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, method and seed, in words."""
        return self.task.name, str(self.contender.spec), self.seed

    def __str__(self) -> str:
        return "{} {} seed {}".format(*self.key)


class Watcher(Protocol):
    """Told how a comparison comes on."""

    def begin(self, position: Position) -> Step:
        """A cell is worked on; takes its steps."""
        ...

    def end(self, position: Position, finding: Finding) -> None:
        """A cell is done, or was done before."""
        ...


def shared_template(able: Capabilities, pairs: bool) -> str:
    """The template that all methods share: the package's own, with words for the soft prompt."""
    return in_words(default_template(pairs, chat=able.chat), DEFAULT_STARTS[0])


class Comparison:
    """Works on a grid's cells; finished ones are read, not worked on again.

    Args:
        grid: The cells.
        out: The folder that keeps them.

    Raises:
        DataError: Splits of the grid's shots cannot be drawn.
        MissingExtraError: A method's packages are missing.
        RunError: The folder cannot be used.
    """

    def __init__(self, grid: Grid, out: Path) -> None:
        self._grid = grid
        self._store = Store(out)
        self._found: dict[tuple[str, str, int], Finding] = {}
        self._splits: dict[tuple[str, int, int | None], FewShotSplit] = {}
        self._prepare()

    def run(self, backend: Backend, watcher: Watcher) -> tuple[Finding, ...]:
        """What was found in every cell, in the grid's order.

        Cells that another process works on are left for later, and then waited for. What a method
        raises is its refusal, but for what follows.

        Args:
            backend: The model.
            watcher: Told of every cell.

        Raises:
            RemoteError: The server fails, or does not accept the key. What it does not do of a
                method's requests (:class:`RejectedError`) is that method's refusal.
            JournalError: Replies that are kept are damaged, or cannot be written.
        """
        with self._store.recorded(backend) as recorded:
            for wait in (False, True):
                for position in filter(self._is_due, self._grid.places()):
                    finding = self._visit(position, recorded, watcher, wait=wait)
                    if finding is not None:
                        self._found[position.key] = finding
                        watcher.end(position, finding)
        return tuple(self._found[position.key] for position in self._grid.places())

    def _prepare(self) -> None:
        """Finds what is missing before a model is opened or anything is spent."""
        for task, seed in product(self._grid.tasks, self._grid.seeds):
            self._split(task, seed, None)
        for contender in self._grid.contenders:
            contender.make(None)
        PeakMemory()
        self._store.prepare()

    def _split(self, task: TaskData, seed: int, shots: int | None) -> FewShotSplit:
        key = (task.name, seed, shots)
        if key not in self._splits:
            self._splits[key] = self._grid.split(task, seed, shots)
        return self._splits[key]

    def _is_due(self, position: Position) -> bool:
        """Whether a cell is to be visited now: seeds wait for the first one's learning rate."""
        if position.key in self._found:
            return False
        is_first = position.seed == self._grid.seeds[0]
        return is_first or not position.contender.takes_rate or self._first(position) in self._found

    def _first(self, position: Position) -> tuple[str, str, int]:
        return replace(position, seed=self._grid.seeds[0]).key

    def _rates(self, position: Position) -> Rates:
        """The first seed's choice for the others; ``None`` where all are to be tried."""
        first = self._found.get(self._first(position))
        if not position.contender.takes_rate or position.seed == self._grid.seeds[0]:
            return None
        if first is None or first.measured is None:
            return None
        rate = first.measured.details.get("learning_rate")
        return None if rate is None else (float(rate),)

    def _visit(
        self, position: Position, backend: Backend, watcher: Watcher, *, wait: bool
    ) -> Finding | None:
        """What was found in a cell; ``None`` if another process works on it."""
        try:
            cell = self._cell(position, backend)
        except DataError as error:  # too few examples for the shots that this method alone has
            return _refused(position, str(error))
        name = cell.name(backend)
        with self._store.claimed(name, wait=wait) as mine:
            if not mine:
                return None
            finding = self._store.read(name)
            if finding is None:
                step = watcher.begin(position)
                finding = self._work(position, cell, self._trial(cell, name, backend), step)
                self._store.write(name, cell, finding, backend)
        return finding

    def _cell(self, position: Position, backend: Backend) -> Cell:
        spec = position.contender.spec
        return Cell(
            task=position.task.name,
            split=self._split(position.task, position.seed, spec.shots),
            seed=position.seed,
            title=str(spec),
            method=position.contender.make(self._rates(position)),
            template=shared_template(backend.capabilities, position.task.pairs),
        )

    def _trial(self, cell: Cell, name: str, backend: Backend) -> Trial:
        return Trial(
            split=cell.split,
            model=backend.name,
            template=cell.template,
            label_words=None,
            seed=cell.seed,
            backend=backend,
            folder=self._store.work(name),
        )

    def _work(self, position: Position, cell: Cell, trial: Trial, step: Step) -> Finding:
        try:
            if position.contender.needs_weights and trial.backend.address:
                raise UnsupportedError(
                    f"{position.contender.spec} needs the model's weights, and {trial.model} is "
                    "called on a server"
                )
            with PeakMemory() as memory:
                measured = cell.method.run(trial, step)
            return cell.found(measured, memory.bytes, trial.backend.identity)
        except BlackBoxDeltaError as error:
            if _ends_all(error):
                raise
            return cell.refused(str(error))


def _ends_all(error: BlackBoxDeltaError) -> bool:
    """Whether it is no matter of one method: every cell that is left would end like that.

    What a server understands and does not do is: a prompt may be too long for it.
    """
    failed = isinstance(error, RemoteError | JournalError)
    return failed and not isinstance(error, RejectedError)


def _refused(position: Position, reason: str) -> Finding:
    task, method, seed = position.key
    return Finding(task, seed, method, position.contender.spec.shots or 0, refusal=reason)
