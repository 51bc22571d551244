from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import anyio
import pytest

from blackbox_delta.backends.remote.http.loop import LoopThread
from blackbox_delta.errors import RemoteError


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "blackbox-delta-remote"]


async def double(number: int) -> int:
    await anyio.sleep(0)
    return 2 * number


async def break_down() -> None:
    raise ZeroDivisionError("on purpose")


def test_results_and_errors_come_back(loop: LoopThread) -> None:
    assert loop.run(double, 21) == 42
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        loop.run(break_down)
    assert loop.run(double, 1) == 2


def test_it_works_where_a_loop_runs_already(loop: LoopThread) -> None:
    async def notebook_cell() -> int:
        return loop.run(double, 3)

    assert asyncio.run(notebook_cell()) == 6


def test_all_calls_share_one_loop(loop: LoopThread) -> None:
    async def which() -> int:
        return id(asyncio.get_running_loop())

    assert loop.run(which) == loop.run(which)


def test_closing_ends_the_thread_and_may_be_repeated() -> None:
    loop = LoopThread()
    assert not loop.closed
    loop.close()
    loop.close()
    assert loop.closed
    assert threads() == []
    with pytest.raises(RemoteError, match="closed"):
        loop.run(double, 1)


def test_closing_cancels_what_runs() -> None:
    loop = LoopThread()
    started = threading.Event()

    async def forever() -> None:
        started.set()
        await anyio.sleep_forever()

    errors: list[Exception] = []

    def call() -> None:
        try:
            loop.run(forever)
        except RemoteError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert started.wait(10)
    loop.close()
    caller.join(10)
    assert not caller.is_alive()
    assert "while a request was running" in str(errors[0])


def test_the_thread_ends_with_the_object() -> None:
    loop = LoopThread()
    assert threads()
    del loop
    gc.collect()
    assert threads() == []


def test_the_last_reference_may_be_dropped_in_the_thread_itself() -> None:
    loop = LoopThread()
    box = [loop]
    dropped = threading.Event()

    async def drop() -> None:
        await anyio.sleep(0.01)
        box.clear()
        gc.collect()
        dropped.set()

    loop._portal.start_task_soon(drop)
    [thread] = [one for one in threading.enumerate() if one.name == "blackbox-delta-remote"]
    del loop
    assert dropped.wait(10)
    thread.join(10)
    assert not thread.is_alive()


SCRIPT_HEAD = """
import _thread, os, signal, threading, time
import anyio
from blackbox_delta.backends.remote.http.loop import LoopThread

# Shells have their background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
loop = LoopThread()
"""


def run_script(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_HEAD + body],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_ctrl_c_waits_for_the_clean_end_and_leaves_a_working_loop() -> None:
    said = run_script("""
async def work():
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        await anyio.sleep(30)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
        print("cleaned up")

async def answer():
    return 42

try:
    loop.run(work)
except KeyboardInterrupt:
    print("interrupted")
print(loop.run(answer))
""")
    assert said.split("\n") == ["cleaned up", "interrupted", "42", ""]


def test_the_interpreter_ends_although_nobody_closed_it() -> None:
    assert run_script("print('bye')") == "bye\n"


def test_the_interpreter_ends_while_something_runs() -> None:
    body = "loop._portal.start_task_soon(anyio.sleep_forever); time.sleep(0.1); print('bye')"
    assert run_script(body) == "bye\n"
