"""The scripts in ``examples`` run as they stand, here with the toy model or the toy server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_server import FaultyServer

EXAMPLES = Path(__file__).parents[1] / "examples"
# Something that each script prints last, so that it is known to have come to its end.
LAST_WORDS = {
    "remote_api.py": (
        "in the tier 'top-tokens'",
        " queries, ",
        "right on an estimated ",
        "'It never worked' is ",
    ),
    "tune_from_python.py": ("right on an estimated ", "trade and sales' is business"),
    "many_users.py": ("anna: ", "ben: 'a delight, warm and clever' is "),
    "sklearn_classifier.py": ("cross-validation: 0.", "is about account ("),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LAST_WORDS)


@pytest.mark.parametrize("name", LAST_WORDS)
def test_example(name: str, tmp_path: Path, toy_server: FaultyServer) -> None:
    where = [toy_server.url] if name == "remote_api.py" else ["--model", "fake"]
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *where]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in LAST_WORDS[name]:
        assert words in done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
