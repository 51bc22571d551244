"""The one owner of the budget: what a run may spend and what it has spent."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, TypeAlias, get_args

from blackbox_delta.errors import BudgetError, ConfigError
from blackbox_delta.prices import FINEST, Prices, dollars
from blackbox_delta.types import Usage

Unit: TypeAlias = Literal["calls", "queries", "tokens", "seconds", "usd"]

#: What is kept back, as a share of what is about to be asked, where token counts are estimates.
MARGIN = 0.1

# A capital M, glued to its number, so that "10 m" is not read as ten million calls.
_BUDGET = re.compile(r"(\$\s*)?([0-9]{1,15}(?:\.[0-9]{1,9})?)([kM](?![A-Za-z]))?\s*([A-Za-z]+)?")
_FACTORS = {None: 1, "k": 1_000, "M": 1_000_000}
_WORDS: dict[str, tuple[Unit, int]] = {
    **dict.fromkeys(("", "call", "calls"), ("calls", 1)),
    **dict.fromkeys(("query", "queries"), ("queries", 1)),
    **dict.fromkeys(("token", "tokens"), ("tokens", 1)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("min", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600)),
    **dict.fromkeys(("usd", "dollar", "dollars"), ("usd", 1)),
}
_EXAMPLES = "'300', '9600 queries', '2M tokens', '10 min' or '$2.50'"
_NO_PRICES = (
    "a budget in dollars needs prices: give the settings price_in and price_out, in $ per million "
    "prompt tokens and per million tokens that the model writes"
)


@dataclass(frozen=True, slots=True)
class Need:
    """Something a run must be able to pay.

    Attributes:
        what: How a message calls it, e.g. ``"one generation"``.
        calls: Candidates, each scored on one set of examples.
        queries: Example-forwards of all of them together.
        tokens: Prompt tokens of all of them together.
        output_tokens: The most tokens that the model may write in all of them together.
    """

    what: str
    calls: int
    queries: int
    tokens: int
    output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The same as usage, if no query is lost."""
        return Usage(self.queries, self.tokens, output_tokens=self.output_tokens)

    def times(self, count: int, what: str) -> Need:
        """The same ``count`` times over, under another name."""
        sizes = (self.calls, self.queries, self.tokens, self.output_tokens)
        return Need(what, *(count * size for size in sizes))


class Budget:
    """A limit in one unit, and everything spent so far in all of them.

    A *call* is one candidate scored on one set of n examples, so n queries, as Black-Box Tuning
    (Sun et al. 2022) counts. Calls count what the search asked for; queries, tokens, dollars and
    parts of calls (``call_size``) what may be billed, so queries whose reply was lost count in
    them. Seconds are those that the
    backend reports in :class:`Usage`, not the clock's: a run replayed from its journal reports the
    recorded ones and decides the same.

    Attributes:
        limit: What may be spent, in ``unit``; whole unless the unit is seconds or dollars.
        unit: ``"calls"``, ``"queries"``, ``"tokens"``, ``"seconds"`` or ``"usd"``.
        prices: What tokens cost; ``None`` where it is not known.
        exact_tokens: Whether tokens are known before they are spent. Where they are estimated, a
            tenth of what is about to be asked is kept back in tokens and dollars.
        call_size: Queries that one call is, where parts of calls are spent; ``None`` counts calls
            as they are charged.
        calls: Calls spent.
        usage: Everything else that was spent.

    Raises:
        ConfigError: The limit is not a positive number, or not a whole one where it must be, or
            dollars lack prices.
    """

    def __init__(self, limit: float, unit: Unit = "calls", prices: Prices | None = None) -> None:
        if unit not in get_args(Unit):
            known = ", ".join(get_args(Unit))
            raise ConfigError(f"the budget's unit '{unit}' is unknown; use one of {known}")
        if not (math.isfinite(limit) and limit > 0):
            raise ConfigError(f"the budget must be a positive number of {unit}, not {limit:g}")
        fractions = unit in ("seconds", "usd")
        if not fractions and limit != int(limit):
            raise ConfigError(f"the budget must be a whole number of {unit}, not {limit:g}")
        if unit == "usd" and prices is None:
            raise ConfigError(_NO_PRICES)
        self.limit: float = limit if fractions else int(limit)
        self.unit: Unit = unit
        self.prices = prices
        self.exact_tokens = True
        self.call_size: int | None = None
        self.calls: float = 0
        self.usage = Usage()
        self._slowest_token = 0.0
        self._slowest_query = 0.0

    @classmethod
    def parse(cls, text: str | int, prices: Prices | None = None) -> Budget:
        """Reads ``300``, ``"9600 queries"``, ``"2M tokens"``, ``"1.5 h"``, ``"$2.50"``, ….

        Raises:
            ConfigError: It cannot be read, or it is in dollars and ``prices`` are missing.
        """
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ConfigError(f"the budget {text!r} cannot be read; write {_EXAMPLES}")
        match = _BUDGET.fullmatch(str(text).strip())
        # A dollar sign is a unit, so another one after it is too many.
        word = "" if match is None else (match[4] or ("usd" if match[1] else "")).lower()
        if match is None or word not in _WORDS or (match[1] and match[4]):
            raise ConfigError(f"the budget '{text}' cannot be read; write {_EXAMPLES}")
        unit, factor = _WORDS[word]
        # Decimal, so that "1.1M tokens" is a whole number of tokens.
        amount = Decimal(match[2]) * _FACTORS[match[3]] * factor
        return cls(float(amount) if amount % 1 else int(amount), unit, prices)

    def fresh(self) -> Budget:
        """The same budget with nothing spent."""
        budget = Budget(self.limit, self.unit, self.prices)
        budget.exact_tokens, budget.call_size = self.exact_tokens, self.call_size
        return budget

    def __str__(self) -> str:
        return _amount(self.limit, self.unit)

    @property
    def spent(self) -> float:
        """What was spent, in the budget's unit."""
        return self._measured(self.calls, self.usage)

    @property
    def cost(self) -> float | None:
        """What was spent in $; ``None`` where the prices are not known."""
        return self.prices.cost(self.usage) if self.prices else None

    @property
    def left_to_send(self) -> int | None:
        """Queries that may still be sent; ``None`` for a budget that is not counted in them."""
        if self.unit == "calls" and self.call_size is not None:
            return max(0, int(self.limit * self.call_size) - self.usage.queries - self.usage.lost)
        return max(0, int(self.limit - self.spent)) if self.unit == "queries" else None

    def most_sent(self, need: Need, longest: int) -> int | None:
        """Queries that may be sent for something, those included whose reply is lost.

        Where tokens or dollars are the limit, they are what it takes and as many of its dearest
        queries as the rest pays for; none if not even that can be paid.

        Args:
            need: What it takes if no reply is lost.
            longest: Prompt tokens of its longest query.

        Returns:
            ``None`` for no limit.
        """
        if self.unit not in ("tokens", "usd"):
            return self.left_to_send
        if self._measured(need.calls, self.usage + need.usage) > self.limit:
            return 0
        written = math.ceil(need.output_tokens / max(1, need.queries))
        dearest = self._measured(0, Usage(1, longest, output_tokens=written))
        if not dearest:
            return None
        spare = self.limit - self._after([need])
        again = spare // (dearest + self._margin([dearest]))
        return need.queries + max(0, int(again))

    @property
    def fraction_spent(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.spent / self.limit)

    @property
    def remaining(self) -> str:
        """What is left, in words, e.g. ``"280 of 300 calls left"``."""
        left = max(0, self.limit - self.spent)
        if self.unit == "usd":
            return f"{dollars(left)} of {self} left"
        return f"{left:.0f} of {self} left"

    def affords(self, *needs: Need) -> bool:
        """Whether all of ``needs`` together can still be paid.

        In calls, queries and exact tokens the answer is exact. Seconds are predicted from the
        slowest request so far; before anything was measured, and while time is left, they are
        allowed.
        """
        left = self.limit - self.spent
        if self.unit == "seconds":
            return left > 0 and sum(map(self._seconds, needs)) <= left
        return left > 0 and self._after(needs) <= self.limit

    def most_calls(self, call: Need) -> int | None:
        """How many such calls the whole budget is worth.

        ``None`` where nobody knows, for a budget in seconds, or where they cost nothing.
        """
        cost = 0 if self.unit == "seconds" else self._measured(call.calls, call.usage)
        return int(self.limit // cost) if cost else None

    def charge(self, usage: Usage, calls: int) -> None:
        """Writes down what a reply cost.

        Raises:
            BudgetError: It exceeds a limit that could be kept, so whoever asked did not ask
                :meth:`affords` first. Seconds, tokens that were estimated and those of lost queries
                are known only afterwards, and may exceed it.
        """
        total = self.usage + usage
        after = self._measured(self.calls + calls, total)
        foreseen = self.exact_tokens and not usage.lost
        binding = self.unit in ("calls", "queries") or (self.unit != "seconds" and foreseen)
        if binding and after > self.limit:
            raise BudgetError(
                f"a reply would bring the budget of {self} to {_amount(after, self.unit)}; "
                "whatever asked for it must ask the budget first"
            )
        self.calls = self._calls(self.calls + calls, total)
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
            ConfigError: They cost nothing, so that a search would never end.
        """
        if self.unit == "seconds":
            return
        costs = [self._measured(need.calls, need.usage) for need in needs]
        if not sum(costs):
            raise ConfigError(
                f"at these prices a query costs nothing, so the budget of {self} would never be "
                "spent; give a budget in calls, queries or tokens"
            )
        least = self._after(needs)
        if least <= self.limit:
            return
        money = self.unit == "usd"
        sums: dict[str, float] = {}
        for need, cost in zip(needs, costs, strict=True):
            sums[need.what] = sums.get(need.what, 0) + cost
        (what, cost), *others = sums.items()
        parts = [f"{what} takes {dollars(cost) if money else _amount(cost, self.unit)}"]
        parts += [f"{what} {dollars(cost) if money else cost}" for what, cost in others]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if others else parts)
        enough = dollars(least, rounding=ROUND_CEILING) if money else math.ceil(least)
        spare = ", a tenth to spare as tokens are estimated" if self._margin(costs) else ""
        raise BudgetError(
            f"the budget of {self} is too small: {listed}; give at least {enough}{spare}"
        )

    def _after(self, needs: Sequence[Need]) -> float:
        """What is spent once ``needs`` are paid, with the margin that they call for."""
        calls = self.calls + sum(need.calls for need in needs)
        usage = sum((need.usage for need in needs), self.usage)
        costs = [self._measured(need.calls, need.usage) for need in needs]
        return self._measured(calls, usage) + self._margin(costs)

    def _margin(self, costs: Sequence[float]) -> float:
        estimated = self.unit in ("tokens", "usd") and not self.exact_tokens
        return MARGIN * sum(costs) if estimated else 0

    def _calls(self, charged: float, usage: Usage) -> float:
        if self.call_size is None:
            return charged
        return (usage.queries + usage.lost) / self.call_size

    def _measured(self, calls: float, usage: Usage) -> float:
        """So many calls, and such usage, in the budget's unit."""
        if self.unit == "calls":
            return self._calls(calls, usage)
        if self.unit == "queries":
            return usage.queries + usage.lost
        if self.unit == "tokens":
            return usage.tokens
        if self.unit == "seconds":
            return usage.seconds
        return self.prices.cost(usage) if self.prices else 0.0

    def _seconds(self, need: Need) -> float:
        """A prediction."""
        if need.tokens:
            return self._slowest_token * need.tokens
        return self._slowest_query * need.queries


def _amount(value: float, unit: Unit) -> str:
    """``1 call``, ``300 calls``, ``600 seconds``, ``$2.50``."""
    if unit == "usd":
        return dollars(value, FINEST)
    if value == 1:
        return "1 query" if unit == "queries" else f"1 {unit[:-1]}"
    return f"{value:g} {unit}" if unit == "seconds" else f"{value} {unit}"
