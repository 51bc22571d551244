from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blackbox_delta.tuner import Option, choose
from blackbox_delta.types import Evidence, IntArray, Vector


class NoHead:
    """Stands where a fitted head is not used."""

    kind = "none"

    def log_proba(self, evidence: Evidence) -> Vector:
        raise AssertionError

    def state(self) -> dict[str, IntArray]:
        return {}


def option(name: str, *losses: float) -> Option:
    return Option(name, None, NoHead(), np.array(losses), 0.0, 0.0)


CALIBRATED = option("calibrated", 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("rivals", "chosen"),
    [
        ([], None),
        # A gain of 0.1 everywhere has no standard error.
        ([option("head", 0.9, 0.9, 0.9, 0.9)], 0),
        ([option("head", 1.0, 1.0, 1.0, 1.0)], None),
        ([option("head", 1.1, 1.1, 1.1, 1.1)], None),
        # Gains 1, 0, 0, 0: mean 0.25, standard error 0.5 / √4 = 0.25; not more than it.
        ([option("head", 0.0, 1.0, 1.0, 1.0)], None),
        # Gains 1, 0.1, 0, 0: mean 0.275, standard error 0.2428.
        ([option("head", 0.0, 0.9, 1.0, 1.0)], 0),
        # Lower on average, but by one lucky example: gains 3, -0.5, -0.5, -0.5.
        ([option("head", -2.0, 1.5, 1.5, 1.5)], None),
        # Of the deltas only the one with the lowest loss competes.
        ([option("delta", 0.8, 0.8, 0.8, 0.8), option("delta", 0.9, 0.9, 0.9, 0.9)], 0),
        ([option("delta", 0.9, 0.9, 0.9, 0.9), option("delta", -3.0, 1.5, 1.5, 1.5)], None),
        # A delta must beat the head where the head beat the calibrated model …
        ([option("head", 0.5, 0.5, 0.5, 0.5), option("delta", 0.9, 0.9, 0.9, 0.9)], 0),
        ([option("head", 0.5, 0.5, 0.5, 0.5), option("delta", 0.4, 0.4, 0.4, 0.4)], 1),
        # … and else the calibrated model.
        ([option("head", 2.0, 2.0, 2.0, 2.0), option("delta", 0.9, 0.9, 0.9, 0.9)], 1),
    ],
)
def test_the_simpler_option_is_kept_unless_another_is_clearly_better(
    rivals: list[Option], chosen: int | None
) -> None:
    expected = CALIBRATED if chosen is None else rivals[chosen]
    assert choose([CALIBRATED, *rivals]) is expected


def test_a_single_development_example_decides_by_its_loss() -> None:
    first, second = option("calibrated", 1.0), option("head", 0.9)
    assert choose([first, second]) is second
    assert choose([second, replace(first, name="delta")]) is second
