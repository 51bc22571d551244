"""Servers with a toy model, made importable too, and time virtual."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from servers import ModelServer, TinyModel

sys.path.insert(0, str(Path(__file__).parent))

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            # A little later than asked, like any clock: rounding must not ask for ever.
            self._now = max(self._now, self._scheduled[0].when()) + 1e-9
        super()._run_once()


Run = Callable[[Callable[[], Awaitable[T]]], T]


def run_and_count_tasks(make: Callable[[], Awaitable[Any]], loop: Any = None) -> Any:
    async def main() -> Any:
        try:
            return await make()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks were left behind: {left}"

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())


@pytest.fixture(scope="session")
def in_virtual_time() -> Run[Any]:
    """Runs an asynchronous function where sleeping takes no time; no task may outlive it."""
    return lambda make: run_and_count_tasks(make, VirtualTimeLoop)


@pytest.fixture(scope="session")
def in_real_time() -> Run[Any]:
    """Runs an asynchronous function; no task may outlive it."""
    return run_and_count_tasks


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hardly waits before it asks again."""
    monkeypatch.setattr("blackbox_delta.backends.remote.http.sender._FIRST_BACKOFF", 0.001)
    monkeypatch.setattr("blackbox_delta.backends.remote.http.sender._LONGEST_BACKOFF", 0.002)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table and the tokenizer of a toy model."""
    pytest.importorskip("torch")  # reads what the server is sent
    from servers import write_model

    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def toy(folder: Path) -> TinyModel:
    """The toy model itself."""
    from servers import TinyModel

    return TinyModel.read(folder)


@pytest.fixture
def server(toy: TinyModel) -> Iterator[ModelServer]:
    """A real server of the toy model."""
    from servers import ModelServer

    with ModelServer(tiny=toy) as made:
        yield made
