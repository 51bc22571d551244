"""The one owner of the budget: what a run may spend and what it has spent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias, get_args

from blackbox_delta.errors import BudgetError, ConfigError
from blackbox_delta.types import Usage

Unit: TypeAlias = Literal["calls", "queries", "tokens", "seconds"]

# A capital M, glued to its number, so that "10 m" is not read as ten million calls.
_BUDGET = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kM](?![A-Za-z]))?\s*([A-Za-z]+)?")
_FACTORS = {None: 1, "k": 1_000, "M": 1_000_000}
_WORDS: dict[str, tuple[Unit, int]] = {
    **dict.fromkeys(("", "call", "calls"), ("calls", 1)),
    **dict.fromkeys(("query", "queries"), ("queries", 1)),
    **dict.fromkeys(("token", "tokens"), ("tokens", 1)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("min", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600)),
}
_EXAMPLES = "'300', '9600 queries', '2M tokens' or '10 min'"


@dataclass(frozen=True, slots=True)
class Need:
    """Something a run must be able to pay.

    Attributes:
        what: How a message calls it, e.g. ``"one generation"``.
        calls: Candidates, each scored on one set of examples.
        queries: Example-forwards of all of them together.
        tokens: Prompt tokens of all of them together.
    """

    what: str
    calls: int
    queries: int
    tokens: int

    def times(self, count: int, what: str) -> Need:
        """The same ``count`` times over, under another name."""
        return Need(what, count * self.calls, count * self.queries, count * self.tokens)


class Budget:
    """A limit in one unit, and everything spent so far in all of them.

    A *call* is one candidate scored on one set of n examples, so n queries, as Black-Box Tuning
    (Sun et al. 2022) counts. Seconds are those that the backend reports in :class:`Usage`, not
    the clock's: a run replayed from its journal reports the recorded ones and decides the same.

    Attributes:
        limit: What may be spent, in ``unit``; whole unless the unit is seconds.
        unit: ``"calls"``, ``"queries"``, ``"tokens"`` or ``"seconds"``.
        calls: Calls spent.
        usage: Queries, tokens, computed tokens and backend seconds spent.

    Raises:
        ConfigError: The limit is not a positive number, or not a whole one where it must be.
    """

    def __init__(self, limit: float, unit: Unit = "calls") -> None:
        if unit not in get_args(Unit):
            known = ", ".join(get_args(Unit))
            raise ConfigError(f"the budget's unit '{unit}' is unknown; use one of {known}")
        if not (math.isfinite(limit) and limit > 0):
            raise ConfigError(f"the budget must be a positive number of {unit}, not {limit:g}")
        if unit != "seconds" and limit != int(limit):
            raise ConfigError(f"the budget must be a whole number of {unit}, not {limit:g}")
        self.limit: float = limit if unit == "seconds" else int(limit)
        self.unit: Unit = unit
        self.calls = 0
        self.usage = Usage()
        self._slowest_token = 0.0
        self._slowest_query = 0.0

    @classmethod
    def parse(cls, text: str | int) -> Budget:
        """Reads ``300``, ``"300 calls"``, ``"9600 queries"``, ``"2M tokens"``, ``"1.5 h"``, ….

        Raises:
            ConfigError: It cannot be read.
        """
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ConfigError(f"the budget {text!r} cannot be read; write {_EXAMPLES}")
        match = _BUDGET.fullmatch(str(text).strip())
        if match is None or (match[3] or "").lower() not in _WORDS:
            raise ConfigError(f"the budget '{text}' cannot be read; write {_EXAMPLES}")
        unit, factor = _WORDS[(match[3] or "").lower()]
        # Decimal, so that "1.1M tokens" is a whole number of tokens.
        amount = Decimal(match[1]) * _FACTORS[match[2]] * factor
        return cls(float(amount) if amount % 1 else int(amount), unit)

    def __str__(self) -> str:
        return _amount(self.limit, self.unit)

    @property
    def spent(self) -> float:
        """What was spent, in the budget's unit."""
        if self.unit == "calls":
            return self.calls
        if self.unit == "queries":
            return self.usage.queries
        return self.usage.tokens if self.unit == "tokens" else self.usage.seconds

    @property
    def fraction_spent(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.spent / self.limit)

    @property
    def remaining(self) -> str:
        """What is left, in words, e.g. ``"280 of 300 calls left"``."""
        left = max(0, self.limit - self.spent)
        digits = f"{left:.0f}" if self.unit == "seconds" else str(left)
        return f"{digits} of {self} left"

    def affords(self, *needs: Need) -> bool:
        """Whether all of ``needs`` together can still be paid.

        In calls, queries and tokens the answer is exact. Seconds are predicted from the slowest
        request so far; before anything was measured, and while time is left, they are allowed.
        """
        left = self.limit - self.spent
        cost = sum(self._cost(need.calls, need.queries, need.tokens) for need in needs)
        return left > 0 and cost <= left

    def most_calls(self, call: Need) -> int | None:
        """How many such calls the whole budget is worth; unknown for a budget in seconds."""
        if self.unit == "seconds":
            return None
        return int(self.limit // self._cost(call.calls, call.queries, call.tokens))

    def charge(self, usage: Usage, calls: int) -> None:
        """Writes down what a reply cost.

        Raises:
            BudgetError: It exceeds a limit in calls, queries or tokens, so whoever asked did not
                ask :meth:`affords` first.
        """
        total = self.usage + usage
        after = {"calls": self.calls + calls, "queries": total.queries, "tokens": total.tokens}
        if after.get(self.unit, 0) > self.limit:
            raise BudgetError(
                f"a reply would bring the budget of {self} to {after[self.unit]}; "
                "whatever asked for it must ask the budget first"
            )
        self.calls += calls
        self.usage = total
        if usage.tokens:
            self._slowest_token = max(self._slowest_token, usage.seconds / usage.tokens)
        if usage.queries:
            self._slowest_query = max(self._slowest_query, usage.seconds / usage.queries)

    def require(self, *needs: Need) -> None:
        """Checks that the first things a run must do can be paid, before any query is spent.

        A budget in seconds cannot tell beforehand and lets everything pass.

        Raises:
            BudgetError: They cannot; the message says what each takes and what would do.
        """
        if self.unit == "seconds":
            return
        costs = [int(self._cost(need.calls, need.queries, need.tokens)) for need in needs]
        least = int(self.spent) + sum(costs)
        if least <= self.limit:
            return
        first, *others = zip(needs, costs, strict=True)
        parts = [f"{first[0].what} takes {_amount(first[1], self.unit)}"]
        parts += [f"{need.what} {cost}" for need, cost in others]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if others else parts)
        raise BudgetError(f"the budget of {self} is too small: {listed}; give at least {least}")

    def _cost(self, calls: int, queries: int, tokens: int) -> float:
        """What so much costs in the budget's unit; for seconds a prediction."""
        if self.unit == "calls":
            return calls
        if self.unit == "queries":
            return queries
        if self.unit == "tokens":
            return tokens
        return self._slowest_token * tokens if tokens else self._slowest_query * queries


def _amount(value: float, unit: Unit) -> str:
    """``1 call``, ``300 calls``, ``600 seconds``."""
    if value == 1:
        return "1 query" if unit == "queries" else f"1 {unit[:-1]}"
    return f"{value:g} {unit}" if unit == "seconds" else f"{value} {unit}"
