"""What every method of a comparison is given, and what it has to report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Backend, Json, Vector

#: Told how far a method has come: the share of its work that is done, and a note on it.
Step = Callable[[float, str], None]


@dataclass(frozen=True)
class Trial:
    """One cell of the comparison: a task, a split of it and a model.

    Attributes:
        split: Training, development and test examples; every method sees the same.
        model: The model's name.
        template: One template for all methods that use one, words in place of the soft prompt.
        label_words: Label to word; ``None`` for the label names.
        seed: Every source of randomness follows from it.
        backend: The same model, open; methods with gradients load it themselves.
        folder: A folder of the cell's own, to keep what an interrupted method goes on from.
    """

    split: FewShotSplit
    model: str
    template: str
    label_words: Mapping[str, str] | None
    seed: int
    backend: Backend
    folder: Path


@dataclass(frozen=True)
class Point:
    """One point of a convergence curve.

    Attributes:
        calls: Passes over the training examples so far.
        loss: Training loss, by the method's own definition.
    """

    calls: float
    loss: float


@dataclass(frozen=True)
class Measured:
    """What a method reached and what it took.

    Attributes:
        log_proba: (n, c) log class probabilities of the test examples.
        train_log_proba: (n, c) those of the training examples, under the final model.
        calls: Queries by training examples, so passes over them, those over the development
            examples included.
        queries: Example-forwards spent on tuning, a forward and backward pass counted as three.
        tokens: Prompt tokens of those.
        seconds: Wall time of tuning.
        test_queries: Queries that one test example takes.
        artifact_bytes: What must be kept beside the model.
        curve: Loss against calls.
        details: Anything else worth keeping, ready for JSON: settings, the learning rate chosen.
        dtype: Precision of the model, where the method has opened one itself.
    """

    log_proba: Vector
    train_log_proba: Vector
    calls: float
    queries: int
    tokens: int
    seconds: float
    test_queries: float
    artifact_bytes: int
    curve: tuple[Point, ...] = ()
    details: Json = field(default_factory=dict)
    dtype: str | None = None


class Method(Protocol):
    """A way to adapt the model."""

    @property
    def name(self) -> str:
        """As the tables call it."""
        ...

    @property
    def settings(self) -> Json:
        """Everything beside the trial that its result depends on; a cell is cached under it."""
        ...

    def run(self, trial: Trial, step: Step) -> Measured:
        """Adapts the model to the trial's training examples and answers its test examples.

        Raises:
            BlackBoxDeltaError: The method cannot be applied to this trial, and why.
        """
        ...
