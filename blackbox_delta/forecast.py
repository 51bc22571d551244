"""What a run will cost, told before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from blackbox_delta.prices import Prices
from blackbox_delta.types import Usage


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs if no query is lost.

    Attributes:
        calls: Candidates, each scored on one set of examples.
        queries: Example-forwards.
        tokens: Prompt tokens.
        output_tokens: The most tokens that the model may write.
        usd: Money; ``None`` where the prices are not known.
        generations: Generations of a search.
    """

    calls: int
    queries: int
    tokens: int
    output_tokens: int
    usd: float | None
    generations: int = 0

    @classmethod
    def of(cls, calls: int, usage: Usage, prices: Prices | None, generations: int = 0) -> Cost:
        """The cost of such usage."""
        sizes = (usage.queries, usage.tokens, usage.output_tokens)
        return cls(calls, *sizes, prices.cost(usage) if prices else None, generations)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.queries + other.queries,
            self.tokens + other.tokens,
            self.output_tokens + other.output_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
            self.generations + other.generations,
        )


@dataclass(frozen=True, slots=True)
class StartForecast:
    """What a run costs if its search begins with one of the starts.

    Attributes:
        words: The start's words, where it has any.
        search: What the search spends of its budget.
        test_least: The test part, if no delta is kept; not part of the budget.
        test_most: The test part, if one is.
    """

    words: str | None
    search: Cost
    test_least: Cost
    test_most: Cost

    @property
    def least(self) -> Cost:
        """Search and test, if no delta is kept."""
        return self.search + self.test_least

    @property
    def most(self) -> Cost:
        """Search and test, if one is."""
        return self.search + self.test_most


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will cost.

    Which start is the best is only known once all of them were scored, which is part of each
    start's cost; they differ by the length of their words.

    Attributes:
        starts: The costs with each start.
        exact: Whether the tokens are what will be billed, or an estimate.
    """

    starts: tuple[StartForecast, ...]
    exact: bool
