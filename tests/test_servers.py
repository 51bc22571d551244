"""The launcher of real servers, on a toy server: whatever happens, nothing is left running."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

SERVERS = Path(__file__).parents[1] / "servers"
SECONDS = 30.0

# Starts a worker that only force ends. Both hold the pipe open as long as they live.
TOY = """
import http.server, os, signal, subprocess, sys
port, pipe, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.set_inheritable(held := os.open(pipe, os.O_WRONLY), True)
stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {}signal.pause()"
subprocess.Popen([sys.executable, "-c", stubborn.format("")], close_fds=False)
os.write(held, b"up")
if way == "fails":
    sys.exit("not enough memory")
if way == "hangs":
    exec(stubborn.format("print('hanging'); "))

class Toy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"well")

http.server.HTTPServer(("127.0.0.1", port), Toy).serve_forever()
"""

LAUNCH = """
import json, sys
from pathlib import Path
home, command, patience, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, {folder!r})
import launch
launch.HOME, launch.GRACE, launch.PATIENCE = Path(home), 0.5, float(patience)
launch.COMMANDS = {{"vllm": lambda port: [each or str(port) for each in json.loads(command)]}}
launch.main()
"""


class Launched:
    """A launcher and the pipe that all processes of its server hold open."""

    def __init__(self, home: Path, way: str, *arguments: str, patience: float = SECONDS) -> None:
        os.mkfifo(home / "pipe")
        self._pipe = os.open(home / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        toy = [sys.executable, "-c", TOY, "", str(home / "pipe"), way]
        given = [str(home), json.dumps(toy), str(patience), "vllm", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH.format(folder=str(SERVERS)), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """The first line on stdout, which comes when the server answers."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def wait_until_up(self) -> None:
        """Returns once the server runs, whether or not it answers."""
        readable, _, _ = select.select([self._pipe], [], [], SECONDS)
        assert readable
        assert os.read(self._pipe, 2) == b"up"

    def nothing_is_left(self) -> bool:
        """Whether the server and its worker end in time."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self._pipe], [], [], 0.1)
            if readable and not os.read(self._pipe, 100):
                return True
        return False

    def output(self) -> tuple[int, str]:
        """Exit status and stderr, once it has ended; stdin stays as it is."""
        assert self.process.stderr is not None
        stderr = self.process.stderr.read()
        return self.process.wait(), stderr

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        with self.process:  # closes its pipes
            pass
        os.close(self._pipe)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """Starts launchers whose server is the toy; each way of ending needs one alone."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "ready").touch()
    started: list[Launched] = []

    def start(*arguments: str, way: str = "serves", patience: float = SECONDS) -> Launched:
        started.append(Launched(tmp_path, way, *arguments, patience=patience))
        return started[-1]

    yield start
    for each in started:
        each.close()


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("*.log"))


def test_it_serves_until_stdin_is_closed(launch: Callable[..., Launched], tmp_path: Path) -> None:
    launched = launch("--while-stdin-open")
    url = launched.url()
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/v1")
    assert httpx.get(url).text == "well"
    launched.close_stdin()
    assert launched.nothing_is_left()
    code, stderr = launched.output()
    assert code == 0
    assert stderr.startswith("starting vllm; its log is ")
    assert not logs(tmp_path), "a log of a server that did its work is of no use"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("way", ["serves", "hangs"])
def test_nothing_outlives_it(launch: Callable[..., Launched], way: str, number: int) -> None:
    """Not even a server that ignores SIGTERM, and not where the launcher itself is killed."""
    launched = launch(way=way)
    launched.wait_until_up()
    if way == "serves":
        launched.url()
    launched.process.send_signal(number)
    assert launched.nothing_is_left()
    code, stderr = launched.output()
    assert code == (-number if number == signal.SIGKILL else 0)
    assert "Traceback" not in stderr


def test_closing_stdin_ends_the_wait_for_a_server_too(launch: Callable[..., Launched]) -> None:
    launched = launch("--while-stdin-open", way="hangs")
    launched.wait_until_up()
    launched.close_stdin()
    assert launched.nothing_is_left()
    assert launched.output()[0] == 0


def test_a_server_that_cannot_start_shows_its_log(launch: Callable[..., Launched]) -> None:
    launched = launch(way="fails")
    assert launched.url() == ""
    code, stderr = launched.output()
    assert code == 1
    assert "vllm ended by itself; the end of " in stderr
    assert stderr.endswith("not enough memory\n")
    assert launched.nothing_is_left()


def test_a_server_that_never_answers_is_given_up(launch: Callable[..., Launched]) -> None:
    launched = launch(way="hangs", patience=1.0)
    code, stderr = launched.output()
    assert code == 1
    assert "vllm did not answer within 1 s" in stderr
    assert launched.nothing_is_left()


@pytest.mark.parametrize("arguments", [(), ("--while-stdin-open",)])
def test_a_server_that_ends_later_is_noticed(
    launch: Callable[..., Launched], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    launched = launch(*arguments)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(launched.url().replace("/v1", "/end"))
    assert launched.nothing_is_left()
    code, stderr = launched.output()
    assert code == 1
    assert "vllm ended by itself" in stderr
    assert logs(tmp_path)


def test_its_port_is_kept_for_the_server(launch: Callable[..., Launched], tmp_path: Path) -> None:
    """From the moment it is chosen, long before the server listens."""
    launched = launch(way="hangs")
    launched.wait_until_up()
    [log] = logs(tmp_path)
    port = int(log.stem.split("-")[1])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("sharing", [False, True])
def test_a_port_that_is_taken_is_refused(launch: Callable[..., Launched], sharing: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=sharing) as other:
        port = other.getsockname()[1]
        code, stderr = launch("--port", str(port)).output()
    assert code == 1
    assert stderr == f"port {port} cannot be used: Address already in use\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("server", ["vllm", "llama-cpp"])
def test_make_passes_a_port_on(server: str) -> None:
    def started(*given: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", *given, server]
        # Ready, as far as make can see: only what starts the server is of interest.
        ready = [".venv/ready", f".servers/{server}/ready"]
        marks = [part for path in ready for part in ("--assume-old", path)]
        # Nothing of the make that may have started these tests.
        env = {"PATH": os.environ["PATH"], "PORT": "7"}
        said = subprocess.check_output([*command, *marks], text=True, cwd=SERVERS.parent, env=env)
        return said.splitlines()[-1]

    launcher = f".venv/bin/python servers/launch.py {server}"
    assert started("PORT=8000") == f"{launcher} --port 8000"
    # Another one each time, whatever the environment says for other programs.
    assert started() == f"{launcher} --port 0"


def test_a_port_can_be_named(launch: Callable[..., Launched]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    assert launch("--port", str(port)).url() == f"http://127.0.0.1:{port}/v1"


def test_it_says_how_to_set_a_server_up(launch: Callable[..., Launched], tmp_path: Path) -> None:
    (tmp_path / "vllm" / "ready").unlink()
    code, stderr = launch().output()
    assert code == 1
    assert stderr == "vllm is not set up; run: make vllm\n"
