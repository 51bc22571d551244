"""The plain verbalizer: softmax over the label words' log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.types import Evidence, IntArray, Vector


@dataclass(frozen=True)
class FittedPlain:
    """Nothing was fitted: the model's own preference among the label words."""

    kind: str = "plain"
    top_k: int = 0

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c)."""
        return log_softmax(evidence.label_logprobs)

    def state(self) -> dict[str, NDArray[Any]]:
        """No parameters."""
        return {}


@dataclass(frozen=True)
class PlainHead:
    """Softmax over the label words; learns nothing from the examples."""

    kind: str = "plain"
    top_k: int = 0

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """None needed."""
        del words
        return ()

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedPlain:
        """Returns the plain verbalizer, whatever the examples."""
        del evidence, labels, reference
        return FittedPlain()

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c); nothing is fitted, so nothing needs holding out."""
        return self.fit(evidence, labels, reference).log_proba(evidence)
