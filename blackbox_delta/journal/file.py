"""The journal's file: an SQLite database with one row for each paid reply.

How durable it is, in the order in which a reply goes:

* Each commit is in the write-ahead log (``-wal``, beside the file) before it returns. It is not
  yet forced onto the platter: that takes milliseconds, hundreds of times a second. A process
  killed at any moment loses nothing that was committed.
* :meth:`Journal.sync` forces all commits onto the platter, at the end of every request. A power
  cut can therefore lose replies of the one request that was under way, which nobody had used yet.
* :meth:`Journal.close` folds the log in and removes it: the file alone is the journal. After a
  kill the log stays until the next opening, and belongs to the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from blackbox_delta.errors import JournalError
from blackbox_delta.journal.record import COLUMNS, TABLE, Record

VERSION = 2
APPLICATION_ID = 0x4242444A  # "BBDJ"

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    TABLE,
    "INSERT INTO meta VALUES ('format', 'float32 and int32 arrays, little-endian')",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM replies"  # noqa: S608
# Who is first writes a reply; it is never overwritten.
_INSERT = (
    f"INSERT INTO replies VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (key) DO NOTHING"
)
_PATIENCE = 10.0  # seconds that a process waits for another one's commit, which takes far less
_PAUSE = 0.02
_ATTEMPTS = 50


class Journal:
    """A file of replies that belongs to one process at a time, or is a cache for several.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, shared: bool) -> None:
        self.path = path
        self._connection = connection
        self._shared = shared

    @classmethod
    def open(cls, path: Path, *, create: bool, shared: bool = False) -> Journal:
        """Opens a journal; ``create`` starts one where there is none.

        A run's own journal is claimed for this process and every row is checked. A ``shared`` one
        may be large and others write to it, so there a row is checked when it is read. A file that
        is not a sound journal is left as it is.

        Raises:
            JournalError: It is missing, in use, damaged or of another version.
        """
        _check_untouched(path)
        mode = "rwc" if create else "rw"
        try:
            connection = connect(path, f"mode={mode}", _PATIENCE if shared else 0)
        except sqlite3.Error as error:
            raise refusal(path, error) from error
        journal = cls(path, connection, shared)
        try:
            journal._claim()
        # SQLite quotes damaged names in its messages, and Python then cannot decode them.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            connection.close()
            raise refusal(path, error) from error
        except BaseException:
            connection.close()
            raise
        return journal

    def __len__(self) -> int:
        return int(self._value("SELECT count(*) FROM replies"))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """The records of those keys that were written.

        Raises:
            JournalError: A record cannot be read.
        """
        found = {}
        try:
            for key in keys:
                row = self._connection.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = Record.from_row(row)
        except ValueError as error:
            raise damaged(self.path, f"a reply cannot be read, {error}") from error
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error
        return found

    def put(self, records: Mapping[bytes, Record]) -> None:
        """Writes records down, all of them or none; of a key that is known, the first one stays.

        Raises:
            JournalError: The disk is full or fails; what was written before is not lost.
        """
        rows = [record.to_row(key) for key, record in records.items()]
        try:
            with self._transaction("IMMEDIATE"):
                self._connection.executemany(_INSERT, rows)
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error

    def sync(self) -> None:
        """Returns when all that was written is safe from a power cut, too.

        Raises:
            JournalError: The disk is full or fails; what was written is not lost.
        """
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error

    def close(self) -> None:
        """Closes the file and lets others have it."""
        # With the disk full the log stays beside the file, and nothing is lost.
        with suppress(sqlite3.Error):
            if not self._shared:
                # Takes the log away for good: a reader need not make one again.
                self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self) -> None:
        """Takes the file for this process unless it is shared, and sets it up where it is new."""
        if not self._shared:
            # The lock taken here is kept until the file is closed or the process dies.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        with self._transaction("EXCLUSIVE"):
            # Also empty after a process was killed before its first commit.
            if self.path.stat().st_size == 0:
                for statement in _SCHEMA:
                    self._connection.execute(statement)
            check_marks(self.path, self._connection)
        if not self._shared:
            self._check_rows()
        self._start_log()
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _start_log(self) -> None:
        # Of several processes that do it at once SQLite turns all but one away without waiting.
        for _ in range(_ATTEMPTS):
            with suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            time.sleep(_PAUSE)
        self._connection.execute("PRAGMA journal_mode = WAL")

    def _check_rows(self) -> None:
        verdict = self._value("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise damaged(self.path, str(verdict))
        for _ in read_rows(self.path, self._connection, SELECT):
            pass

    def _value(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself when the disk was full.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def connect(path: Path, options: str, patience: float = 0) -> sqlite3.Connection:
    """A connection to an SQLite file; ``options`` as in its URIs, ``patience`` in seconds."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=patience,
        isolation_level=None,
        # Replies are written in the thread that receives them, while the caller waits: two
        # threads, but never both at once.
        check_same_thread=False,
    )


def check_marks(path: Path, connection: sqlite3.Connection) -> None:
    """Refuses what is not a journal of this version.

    Raises:
        JournalError: It is something else, or of another version.
        sqlite3.Error: It is not even a database.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(f"{path} is not a journal, or is damaged; it was not touched")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"the journal {path} was written by a newer version of blackbox-delta "
            f"(format {version}, known up to {VERSION}); upgrade to go on with it"
        )
    if 0 < version < VERSION:
        raise JournalError(
            f"the journal {path} was written by an earlier version of blackbox-delta "
            f"(format {version}, not {VERSION}); go on with that version, or start a new one"
        )
    if version != VERSION:
        raise damaged(path, f"format {version} does not exist")


def read_rows(
    path: Path, connection: sqlite3.Connection, query: str
) -> Generator[tuple[bytes, Record]]:
    """Keys and records of a query that begins with ``SELECT``.

    Raises:
        JournalError: A row is not what was written.
        sqlite3.Error: The file cannot be read.
    """
    try:
        for row in connection.execute(query):
            yield row[0], Record.from_row(row)
    except ValueError as error:
        raise damaged(path, f"a reply cannot be read, {error}") from error


def _check_untouched(path: Path) -> None:
    """Refuses a file of another kind or version without so much as a lock on it.

    Opening it properly would fold in the log that its own program may have left beside it.
    """
    try:
        if path.is_dir():
            raise JournalError(f"{path} is a folder; name a file")
        unfinished = path.with_name(f"{path.name}-journal").exists()
        if unfinished or not path.is_file() or path.stat().st_size == 0:
            return
    except OSError as error:
        raise JournalError(
            f"the journal {str(path)[:200]} cannot be used: {error.strerror or error}"
        ) from error
    # Without a lock it may be seen half-way through somebody's writing; the lock will tell.
    with suppress(sqlite3.Error), closing(connect(path, "immutable=1")) as connection:
        check_marks(path, connection)


def damaged(path: Path, why: str) -> JournalError:
    """What to say of a file that is no longer what was written."""
    return JournalError(
        f"the journal {path} is damaged ({why}); no reply in it was changed: "
        "restore it from a copy, or start again with a new one"
    )


def refusal(path: Path, error: Exception) -> JournalError:
    """What an error of SQLite's means."""
    # The low byte is the kind of error, the others its details.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(
            f"the journal {path} is in use by another process; wait for it to end, or use another"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return JournalError(
            f"the journal {path} cannot be opened for writing ({error}); "
            "check that it exists and that you may write there"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return JournalError(
            f"the journal {path} could not be read or written ({error}); nothing that it held "
            "was lost: free space or mend the disk, then resume the run, or repeat the command "
            "where this is a cache"
        )
    return damaged(path, str(error))
