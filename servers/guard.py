"""Runs a command until stdin is closed, then ends it and everything that it started.

``python guard.py SECONDS COMMAND…``: after so many seconds it ends them by force. Whoever starts a
server through this cannot leave it behind: however a process dies, the system closes its pipes.
It leads a process group of its own, which the command joins, so that Ctrl-C reaches neither.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress


def main() -> None:
    """Reads the command line, starts the command and watches."""
    patience, command = float(sys.argv[1]), sys.argv[2:]
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the group is sent, this process too
    while process.poll() is None and not stdin_closed(0.5):
        pass
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    os.killpg(0, signal.SIGKILL)  # workers that are left, and the guard itself


def stdin_closed(seconds: float) -> bool:
    """Whether nobody holds stdin's other end any more; waits so long for that."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 4096)


if __name__ == "__main__":
    main()
