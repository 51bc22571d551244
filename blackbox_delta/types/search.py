"""What searches, and what turns a backend's answers into probabilities of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from blackbox_delta.types.arrays import IntArray, Vector
from blackbox_delta.types.scoring import Evidence


class Optimizer(Protocol):
    """Ask/tell over z in R^d, minimising. Holds its own random generator."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    @property
    def population(self) -> int:
        """λ, the number of candidates it likes to be asked for."""
        ...

    @property
    def mean(self) -> Vector:
        """(d,), the optimizer's own estimate of the optimum (a distribution's mean, say)."""
        ...

    def ask(self, count: int) -> Vector:
        """``count`` new candidates of shape (count, d)."""
        ...

    def tell(self, z: Vector, losses: Vector) -> None:
        """Losses of shape (λ,) for the candidates last asked, lower is better."""
        ...


class FittedHead(Protocol):
    """A head with its parameters: turns evidence into class probabilities."""

    @property
    def kind(self) -> str:
        """The name of the head it came from."""
        ...

    @property
    def top_k(self) -> int:
        """How many top tokens it needs with each reply."""
        ...

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c)."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """The parameters as arrays, enough to rebuild it."""
        ...


class Head(Protocol):
    """The output side: how evidence on labelled examples becomes a classifier."""

    @property
    def kind(self) -> str:
        """The name it is chosen by."""
        ...

    @property
    def top_k(self) -> int:
        """How many top tokens it wants with each reply; 0 for none."""
        ...

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """Texts to be scored beside the training examples, often none; may hold the label words."""
        ...

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedHead:
        """Fits on n labelled examples; ``reference`` is the evidence of ``references``."""
        ...

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c), each example's from a fit that never saw its label."""
        ...
