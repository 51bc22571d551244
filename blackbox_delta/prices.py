"""What tokens cost in dollars."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blackbox_delta.errors import ConfigError
from blackbox_delta.types import Usage

_MILLION = 1_000_000
_FORM = '{"MODEL": {"input": 0.15, "output": 0.6}}, in $ per million tokens'
#: The finest that a budget in dollars is written in.
FINEST = 9
#: The most that tokens may cost: a dollar each. No model is near it, so more is a slip.
_DEAREST = 1_000_000.0
#: Enough digits for any number that a float can be.
_EXACTLY = Context(prec=400)


class _Entry(BaseModel):
    """What a price table says about one model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one model.

    Attributes:
        input: $ per million prompt tokens.
        output: $ per million tokens that the model writes.

    Raises:
        ConfigError: A price is negative, not a number, or more than a dollar a token.
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for what, price in (("input", self.input), ("output", self.output)):
            if not 0 <= price <= _DEAREST:
                raise ConfigError(
                    f"the price of {what} tokens must be a number of $ per million, 0 or more and "
                    f"at most {_DEAREST:,.0f}, not {price!r}"
                )

    def cost(self, usage: Usage) -> float:
        """What ``usage`` costs in $, lost queries' tokens included."""
        return (usage.tokens * self.input + usage.output_tokens * self.output) / _MILLION

    @classmethod
    def from_file(cls, path: Path, model: str) -> Self:
        """The prices of one model from a JSON file ``{"MODEL": {"input": …, "output": …}, …}``.

        Raises:
            ConfigError: The file cannot be read, does not name the model, or a price is missing,
                negative or not a number.
        """
        table = _read(path)
        if model not in table:
            raise ConfigError(
                f"the price table {path} has no model {model!r}; {_near(model, table)}"
            )
        try:
            entry = _Entry.model_validate(table[model])
        except ValidationError as error:
            wrong = "; ".join(_explain(problem) for problem in error.errors())
            raise ConfigError(
                f"the prices of {model!r} in {path} make no sense: {wrong}; write {_FORM}"
            ) from None
        return cls(entry.input, entry.output)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the price table {path} cannot be read: {error.strerror}") from error
    # Brackets without end are a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the price table {path} is not JSON: {error}; write {_FORM}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"the price table {path} must map models to prices: {_FORM}")
    return table


def _near(model: str, table: dict[str, Any]) -> str:
    near = get_close_matches(model, table, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    known = ", ".join(map(repr, list(table)[:10])) or "nothing"
    return f"it names {known}"


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"{name or 'the entry'}: {problem['msg'].lower()}"


def dollars(value: float, places: int | None = None, rounding: str = ROUND_HALF_EVEN) -> str:
    """``$2.50``, ``$0.0123``: cents, and three digits of what is less than a dime.

    Args:
        value: An amount of money, 0 or more.
        places: Decimals to be shown instead, as far as they are not zeros.
        rounding: One of :mod:`decimal`'s.
    """
    exact = Decimal(value)
    if places is None:
        places = 2 if not value or value >= 0.1 else min(FINEST, 2 - exact.adjusted())
    rounded = exact.quantize(Decimal(1).scaleb(-places), rounding, _EXACTLY)
    whole, _, digits = f"{rounded:f}".partition(".")
    return f"${whole}.{digits.rstrip('0').ljust(2, '0')}"
