"""Command lines that run in processes of their own, without the seconds that loading takes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

# Loads everything once, by running one command line. Then each line is a command line that a fork
# runs, as a program of its own would, or "kill" for the one that runs; answers are exit codes.
SCRIPT = """
import json, os, select, signal, sys

def run(arguments):
    from blackbox_delta.cli import main
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        return end.code or 0

answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
os.dup2(2, 1)
for place, line in enumerate(sys.stdin):
    if line == "kill\\n":
        continue  # it has had its effect, or came too late
    if place == 0:
        code = run(json.loads(line))
    else:
        child = os.fork()
        if not child:
            try:
                os._exit(run(json.loads(line)))
            finally:
                os._exit(99)
        ended = os.pidfd_open(child)
        if ended not in select.select([ended, 0], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(ended)
    print(code, file=answers, flush=True)
"""


class Nursery:
    """A process whose children run command lines and can be killed.

    Args:
        log: A file for what the commands print.
        warm_up: A command line that needs what the others will.
    """

    def __init__(self, log: Path, warm_up: Sequence[object]) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()
        if self.run(warm_up):
            self.close()
            raise AssertionError(log.read_text()[-3000:])

    def run(self, arguments: Sequence[object]) -> int:
        """The exit code of a command; -9 if it was killed."""
        self._write(json.dumps([str(each) for each in arguments]))
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        """Kills the command that runs, if one does; to be called from another thread."""
        self._write("kill")

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _write(self, line: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
