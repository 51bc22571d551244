"""What a journal says was spent on what. Only ever reads."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from blackbox_delta.errors import JournalError
from blackbox_delta.journal.file import SELECT, check_marks, connect, read_rows, refusal
from blackbox_delta.journal.record import Record
from blackbox_delta.types import Usage

# What a killed process may leave beside the file, and what belongs to it.
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True)
class Spending:
    """What one purpose took.

    Attributes:
        purpose: :attr:`ScoreRequest.purpose`; ``""`` where none was given.
        cached: Replies that came from a shared cache, and cost this run nothing.
        usage: What this run paid. ``queries`` are those that were answered.
    """

    purpose: str
    cached: int = 0
    usage: Usage = field(default_factory=Usage)

    @property
    def replies(self) -> int:
        """Replies that are in the journal."""
        return self.cached + self.usage.queries

    @property
    def sent(self) -> int:
        """Queries that were sent, the lost ones included."""
        return self.usage.queries + self.usage.lost

    def with_reply(self, record: Record) -> Spending:
        """The same and one reply more."""
        if record.cached:
            return replace(self, cached=self.cached + 1)
        return replace(self, usage=self.usage + record.usage)


@dataclass(frozen=True)
class Summary:
    """What a journal says was spent.

    Attributes:
        purposes: One for each purpose, in alphabetical order.
        total: All of them together; its purpose is ``""``.
    """

    purposes: tuple[Spending, ...]
    total: Spending


def summarise(path: Path) -> Summary:
    """What was spent on what, according to a journal that nobody is writing, or a shared one.

    Raises:
        JournalError: It is missing, in use, damaged or of another version.
    """
    spent: dict[str, Spending] = {}
    total = Spending("")
    with _records(path) as records:
        for _, record in records:
            before = spent.get(record.purpose, Spending(record.purpose))
            spent[record.purpose] = before.with_reply(record)
            total = total.with_reply(record)
    return Summary(tuple(spent[purpose] for purpose in sorted(spent)), total)


def export(path: Path, stream: IO[str]) -> None:
    """Writes a journal's replies as JSON, one a line, in the order of their keys.

    A line holds ``key`` (hexadecimal), ``purpose``, ``cached``, ``label_logprobs``, ``top_ids``,
    ``top_logprobs`` and the fields of :class:`blackbox_delta.types.Usage`. One without queries is
    no reply but a loss: queries that were sent in vain before an error, Ctrl-C or the end of the
    budget ended their request; its tokens are estimated.

    Raises:
        JournalError: It is missing, in use, damaged or of another version.
        OSError: The stream cannot be written.
    """
    with _records(path) as records:
        for key, record in records:
            line = {
                "key": key.hex(),
                "purpose": record.purpose,
                "cached": record.cached,
                "label_logprobs": record.label_logprobs.tolist(),
                "top_ids": record.top_ids.tolist(),
                "top_logprobs": record.top_logprobs.tolist(),
                **asdict(record.usage),
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def _records(path: Path) -> Iterator[Iterator[tuple[bytes, Record]]]:
    """All keys and records, in the order of the keys."""
    try:
        with ExitStack() as stack:
            connection = _open(path, stack)
            check_marks(path, connection)
            # Closed first: a cursor that somebody's traceback keeps would keep the file locked.
            rows = read_rows(path, connection, f"{SELECT} ORDER BY key")
            yield stack.enter_context(closing(rows))
    # SQLite quotes damaged names in its messages, and Python then cannot decode them.
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise refusal(path, error) from error


def _open(path: Path, stack: ExitStack) -> sqlite3.Connection:
    """A connection that leaves no trace beside the file, however its last writer ended."""
    try:
        if not path.is_file():
            raise JournalError(f"there is no journal at {path}; name the one of a run or a cache")
        connection = stack.enter_context(closing(connect(path, "mode=ro&readonly_shm=1")))
        if _is_readable(connection):
            return connection
        # A writer was killed: SQLite has to write in order to read, and may do so elsewhere.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        copy = Path(folder) / path.name
        for suffix in ("", *_LOGS):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copyfile(part, copy.with_name(copy.name + suffix))
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error
    return stack.enter_context(closing(connect(copy, "mode=rw")))


def _is_readable(connection: sqlite3.Connection) -> bool:
    """Whether SQLite can read the file without writing beside it."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        return False
    return True
