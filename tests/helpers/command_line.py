"""The command line on the toy model, from outside: arguments in, text and exit codes out."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from typer.testing import CliRunner, Result

from blackbox_delta.cli import app
from blackbox_delta.types import Json, Scores

#: The program as a process.
PROGRAM = [sys.executable, "-m", "blackbox_delta"]
GREAT = ["great", "good", "wonderful", "love", "best", "fun"]
BAD = ["terrible", "awful", "boring", "worst", "hate", "poor"]
OTHER = ["the", "a", "is", "was", "it", "this", "movie", "film", "story", "and", "with", "you"]
WORDS = "positive=great,negative=terrible"


def sentences(count: int, rng: random.Random) -> list[Json]:
    """Labelled lines, ``count`` a class, with more words of their class than of the other."""
    rows = []
    for _ in range(count):
        for label, own in (("positive", GREAT), ("negative", BAD)):
            words = [*rng.sample(own, 2), *rng.sample(OTHER, 5), rng.choice(GREAT + BAD)]
            rows.append({"text": " ".join(rng.sample(words, len(words))), "label": label})
    return rows


def write_lines(path: Path, rows: Iterable[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)


def tune(data: Path, *more: object, words: str = WORDS) -> Result:
    """A small run; what stands in ``more`` counts if an option is given twice."""
    small: list[object] = ["--dimension", 20, "--shots", 4, "--budget", 6, "--seed", 13]
    if not {"--delta", "--settings"}.intersection(more):  # others may have no such tokens
        small += ["--soft-tokens", 3]
    return run("tune", "--model", "fake", "--data", data, "--label-words", words, *small, *more)


def result_of(folder: Path) -> Json:
    """A run's report without its times."""
    report = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in report.items() if not name.endswith("seconds")}


def spend(*_: object, **__: object) -> Scores:
    raise AssertionError("a query was spent")


def failed(done: Result) -> str:
    """The one block that an error leaves: a sentence, no traceback, nothing on stdout."""
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    assert not done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error: ") == 1
    return done.stderr.split("Error: ")[1].strip()


def hearing() -> None:
    """A shell that runs the tests in the background, or ``nohup``, has made them deaf."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
