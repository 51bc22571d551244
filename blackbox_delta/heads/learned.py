"""What all heads that learn from the label words and the top tokens share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from blackbox_delta.heads.probabilities import check_training
from blackbox_delta.heads.threads import blas_on_one_thread
from blackbox_delta.types import Evidence, FittedHead, IntArray, Vector


@dataclass(frozen=True)
class LearnedHead(ABC):
    """Checks the training data, then learns on one thread.

    Attributes:
        kind: The name it is chosen by.
        top_k: How many top tokens it asks for; 0 leaves the label words alone.
    """

    kind: str
    top_k: int = 100

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """None needed."""
        del words
        return ()

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedHead:
        """Fits on n examples; ``reference`` is the evidence of :meth:`references`, or nothing.

        Raises:
            DataError: Fewer than two examples, or labels that do not match them.
        """
        check_training(evidence, labels)
        with blas_on_one_thread():
            return self._fit(evidence, labels, reference)

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c), each example's from a fit that never saw its label.

        A handful of strengths and factors, chosen for all examples together, have seen all labels.

        Raises:
            DataError: Fewer than two examples, or labels that do not match them.
        """
        check_training(evidence, labels)
        with blas_on_one_thread():
            return self._held_out(evidence, labels, reference)

    @abstractmethod
    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedHead: ...

    @abstractmethod
    def _held_out(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> Vector: ...
