"""The command line on a small real server: what its runs ask, and what of that arrives."""

from __future__ import annotations

import random
from pathlib import Path

from command_line import BAD, GREAT, OTHER, WORDS, run
from faulty_server import FaultyServer
from typer.testing import Result

from blackbox_delta.report import ASKED_AGAIN
from blackbox_delta.types import Json

MOODS = {"positive": GREAT, "negative": BAD}
#: Two starts on 8 training examples, the better one on 8 development examples; then 20 test
#: examples, some of them twice.
SEARCHED, TESTED = 24, 20 + ASKED_AGAIN
ALL = SEARCHED + TESTED
#: The recipe of which it is known beforehand what it asks: nothing is searched through text alone.
SMALL = ["--recipe", "search", "--shots", 4, "--seed", 13, "--label-words", WORDS]
PRICED = ["--price-in", 10, "--price-out", 40]


def sentences(count: int, rng: random.Random) -> list[Json]:
    """Labelled lines, ``count`` a class, no two alike."""
    return [
        {"text": " ".join([*rng.sample(OTHER, 6), *rng.sample(own, 2), str(n)]), "label": label}
        for n in range(count)
        for label, own in MOODS.items()
    ]


def tune(url: str, data: Path, *more: object) -> Result:
    return run("tune", "--base-url", url, "--data", data, *SMALL, *more)


def asked(server: FaultyServer) -> int:
    """Queries that arrived."""
    return int(server.received.total())
