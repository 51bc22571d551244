"""Makes the test servers importable, and waiting between attempts short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
# The faulty server stands beside the tests of the client.
sys.path[:0] = [str(_HERE), str(_HERE.parent / "backends" / "remote")]


@pytest.fixture(scope="module")
def no_waiting() -> Iterator[None]:
    """A client that tries again at once; how long it waits is tested with a clock of its own.

    It begins with all that it may have in flight, so that faults that take a time-out each meet
    many requests together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blackbox_delta.backends.remote.http.sender._FIRST_BACKOFF", 0.001)
        patch.setattr("blackbox_delta.backends.remote.http.sender._LONGEST_BACKOFF", 0.002)
        patch.setattr("blackbox_delta.backends.remote.http.flow._START", 64)
        yield


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedding table and the tokenizer of the toy model; leave it as it is."""
    from scenes import write_table

    return write_table(tmp_path_factory.mktemp("toy") / "table")
