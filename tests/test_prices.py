from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.errors import ConfigError
from blackbox_delta.prices import Prices, dollars
from blackbox_delta.types import Usage

TABLE = {"small-1": {"input": 0.15, "output": 0.6}, "small-2": {"input": 1, "output": 0}}


def written(folder: Path, content: Any) -> Path:
    path = folder / "prices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.floats(0, 1e3), st.floats(0, 1e3))
def test_tokens_are_billed_by_the_million(read: int, wrote: int, one: float, other: float) -> None:
    cost = Prices(one, other).cost(Usage(5, read, output_tokens=wrote, lost=3))
    exact = (read * Fraction(one) + wrote * Fraction(other)) / 1_000_000
    assert cost == pytest.approx(float(exact), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf"), 1e30, 1.1e6])
def test_a_price_is_a_number_that_is_not_negative(price: float) -> None:
    with pytest.raises(ConfigError, match="price of input tokens"):
        Prices(price, 1)
    with pytest.raises(ConfigError, match="price of output tokens"):
        Prices(1, price)


def test_a_table_names_models(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    assert Prices.from_file(path, "small-1") == Prices(0.15, 0.6)
    assert Prices.from_file(path, "small-2") == Prices(1.0, 0.0)


def test_an_unknown_model_is_told_its_neighbours(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    with pytest.raises(ConfigError, match=r"no model 'smal-1'; did you mean 'small-1' or"):
        Prices.from_file(path, "smal-1")
    with pytest.raises(ConfigError, match="it names 'small-1', 'small-2'"):
        Prices.from_file(path, "quite another")
    with pytest.raises(ConfigError, match="it names nothing"):
        Prices.from_file(written(tmp_path, {}), "small-1")


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"input": -1, "output": 1}, "input: .*greater than or equal to 0"),
        ({"input": 1, "output": float("nan")}, "output: .*finite"),
        ({"input": float("inf"), "output": 1}, "input: .*finite"),
        ({"input": 10**400, "output": 1}, "input: "),
        ({"input": "1", "output": 1}, "input: .*number"),
        ({"input": True, "output": 1}, "input: .*number"),
        ({"input": 1}, "output: field required"),
        ({"input": 1, "output": 1, "ouptut": 2}, "ouptut: extra"),
        (3, "the entry: "),
        (None, "the entry: "),
    ],
)
def test_prices_that_make_no_sense_are_named(entry: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"prices of 'm' in .*make no sense: {what}"):
        Prices.from_file(written(tmp_path, {"m": entry, "other": TABLE["small-1"]}), "m")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must map models to prices"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        Prices.from_file(written(tmp_path, content), "m")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prices.json cannot be read: No such file"):
        Prices.from_file(tmp_path / "prices.json", "m")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match="is not JSON"):
        Prices.from_file(tmp_path / "bytes", "m")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "$0.00"),
        (2.5, "$2.50"),
        (0.1234, "$0.12"),
        (0.05, "$0.05"),
        (0.01234, "$0.0123"),
        (0.000075, "$0.000075"),
        (1234.567, "$1234.57"),
        (1e-12, "$0.00"),
    ],
)
def test_money_is_shown_in_cents_or_three_digits(value: float, shown: str) -> None:
    assert dollars(value) == shown


@given(st.floats(1e-6, 1e6))
def test_money_is_shown_to_half_a_percent_or_half_a_cent(value: float) -> None:
    error = abs(float(Decimal(dollars(value).removeprefix("$"))) - value)
    assert error <= max(0.0050001 * value, 0.0050001 if value >= 0.1 else 0)


@pytest.mark.parametrize("value", [1e21, 1e300])
@pytest.mark.parametrize("places", [None, 9])
def test_no_amount_is_too_large_to_be_written(value: float, places: int | None) -> None:
    assert float(dollars(value, places).removeprefix("$")) == value
