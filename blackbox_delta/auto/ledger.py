"""What each part of the recipe cost and contributed."""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.auto.pooling import Pooled
from blackbox_delta.budget import Budget
from blackbox_delta.history import History
from blackbox_delta.types import Json, Usage


class Ledger:
    """One entry a part, in order.

    Args:
        budget: What was spent is read off it.

    Attributes:
        history: Takes the entries as they come.
        parts: The entries.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._before = Usage()
        self.history: History | None = None
        self.parts: list[Json] = []

    @property
    def raced(self) -> set[str]:
        """Names of all views that finished or dropped out."""
        return {name for part in self.parts for name in (*part["finished"], *part["dropped"])}

    def note(
        self,
        part: str,
        finished: Sequence[str],
        dropped: Sequence[str],
        pooled: Pooled,
        more: Json | None = None,
    ) -> None:
        """Writes down what was spent since the last entry, and how good the pool is now.

        Args:
            part: Its name.
            finished: Views that finished in it.
            dropped: Views that dropped out.
            pooled: The pool now.
            more: What else there is to say about the part.
        """
        usage, before = self._budget.usage, self._before
        self._before = usage
        entry: Json = {
            "part": part,
            "finished": list(finished),
            "dropped": list(dropped),
            "calls": self._budget.calls,
            "queries": usage.queries - before.queries,
            "tokens": usage.tokens - before.tokens,
            "held_out_loss": pooled.loss,
            "held_out_accuracy": pooled.accuracy,
            **(more or {}),
        }
        self.parts.append(entry)
        if self.history is not None:
            self.history.append(entry)
