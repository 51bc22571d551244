"""The journal's file: one SQLite row for each paid reply, whole and checked or not there at all."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from blackbox_delta.errors import JournalError
from blackbox_delta.types import FloatArray, IntArray

VERSION = 1
APPLICATION_ID = 0x4242444A  # "BBDJ"

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE replies (
        key BLOB PRIMARY KEY, reply BLOB NOT NULL,
        tokens INTEGER NOT NULL, computed_tokens INTEGER NOT NULL, seconds REAL NOT NULL
    )""",  # with row ids: else every reply with top tokens would take overflow pages of its own
    "INSERT INTO meta VALUES ('format', 'float32 and int32 arrays, little-endian')",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS = "key, reply, tokens, computed_tokens, seconds"
_HEAD = struct.Struct("<II")  # c choices, k top tokens
_COST = struct.Struct("<qqd")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """A reply to one (candidate, prompt) pair, and its share of what the request cost.

    Attributes:
        label_logprobs: (c,) float32.
        top_ids: (k,) int64.
        top_logprobs: (k,) float32.
        tokens: Prompt tokens, as :attr:`Usage.tokens` counts them.
        computed_tokens: Its share of the computed tokens.
        seconds: Its share of the backend's time.
    """

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    tokens: int
    computed_tokens: int
    seconds: float

    def to_row(self, key: bytes) -> tuple[bytes, bytes, int, int, float]:
        """A row of the table, whose check covers all of it."""
        body = b"".join(
            (
                _HEAD.pack(len(self.label_logprobs), len(self.top_ids)),
                np.asarray(self.label_logprobs, "<f4").tobytes(),
                np.asarray(self.top_ids, "<i4").tobytes(),
                np.asarray(self.top_logprobs, "<f4").tobytes(),
            )
        )
        cost = (self.tokens, self.computed_tokens, self.seconds)
        return (key, body + _CHECK.pack(_checksum(key, body, cost)), *cost)

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Record:
        """Reads a row back.

        Raises:
            ValueError: A single byte of it is not what was written.
        """
        if [type(value) for value in row] != [bytes, bytes, int, int, float]:
            raise ValueError("a column has another type")
        key, reply, *cost = row
        body = reply[: -_CHECK.size]
        if len(reply) < _HEAD.size + _CHECK.size or (
            reply[-_CHECK.size :] != _CHECK.pack(_checksum(key, body, cost))
        ):
            raise ValueError("its checksum is wrong")
        choices, top = _HEAD.unpack_from(body)
        if len(body) != _HEAD.size + 4 * choices + 8 * top:
            raise ValueError("its length is wrong")
        ids_at = _HEAD.size + 4 * choices
        return cls(
            np.frombuffer(body, "<f4", choices, _HEAD.size),
            np.frombuffer(body, "<i4", top, ids_at).astype(np.int64),
            np.frombuffer(body, "<f4", top, ids_at + 4 * top),
            *cost,
        )


def _checksum(key: bytes, body: bytes, cost: Sequence[float]) -> int:
    return zlib.crc32(key + body + _COST.pack(*cost))


class Journal:
    """A file of replies that belongs to one process at a time.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool) -> Journal:
        """Opens a journal and checks every row; ``create`` starts one where there is none.

        A file that is not a sound journal is left as it is.

        Raises:
            JournalError: It is missing, in use, damaged or of a newer version.
        """
        address = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        try:
            connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise _refusal(path, error) from error
        journal = cls(path, connection)
        try:
            journal._claim()
            journal._check_rows()
        # SQLite quotes damaged names in its messages, and Python then cannot decode them.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            journal.close()
            raise _refusal(path, error) from error
        except BaseException:
            journal.close()
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
                query = f"SELECT {_COLUMNS} FROM replies WHERE key = ?"  # noqa: S608
                row = self._connection.execute(query, (key,)).fetchone()
                if row is not None:
                    found[key] = Record.from_row(row)
        except (sqlite3.Error, ValueError) as error:
            raise _damaged(self.path, str(error)) from error
        return found

    def put(self, records: Mapping[bytes, Record]) -> None:
        """Writes records down for good, all of them or none.

        Raises:
            JournalError: The disk is full or fails; what was written before is not lost.
        """
        rows = [record.to_row(key) for key, record in records.items()]
        try:
            with self._transaction():
                self._connection.executemany("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise _failing(self.path, error) from error

    def close(self) -> None:
        """Closes the file and lets others have it."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self) -> None:
        """Takes the file for this process, and sets it up where it is new."""
        # Exclusive: the lock taken here is kept until the file is closed or the process dies.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = DELETE"):
            self._connection.execute(f"PRAGMA {setting}")
        # Full: a commit returns only when the disk has it.
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            # Also empty after a process was killed before its first commit.
            if self.path.stat().st_size == 0:
                for statement in _SCHEMA:
                    self._connection.execute(statement)
            self._check_marks()

    def _check_marks(self) -> None:
        if self._value("PRAGMA application_id") != APPLICATION_ID:
            raise JournalError(f"{self.path} is not a journal, or is damaged; it was not touched")
        version = self._value("PRAGMA user_version")
        if version > VERSION:
            raise JournalError(
                f"the journal {self.path} was written by a newer version of blackbox-delta "
                f"(format {version}, known up to {VERSION}); upgrade to go on with it"
            )
        if version != VERSION:
            raise _damaged(self.path, f"format {version} does not exist")

    def _check_rows(self) -> None:
        verdict = self._value("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise _damaged(self.path, str(verdict))
        try:
            for row in self._connection.execute(f"SELECT {_COLUMNS} FROM replies"):  # noqa: S608
                Record.from_row(row)
        except ValueError as error:
            raise _damaged(self.path, f"a reply cannot be read, {error}") from error

    def _value(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself when the disk was full.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _damaged(path: Path, why: str) -> JournalError:
    return JournalError(
        f"the journal {path} is damaged ({why}); it was not changed: "
        "restore it from a copy, or start again in a new folder"
    )


def _failing(path: Path, error: Exception) -> JournalError:
    return JournalError(
        f"the journal {path} could not be read or written ({error}); nothing that it held "
        "was lost: free space or mend the disk, then resume the run"
    )


def _refusal(path: Path, error: Exception) -> JournalError:
    """What an error of SQLite's means while a journal is being opened."""
    # The low byte is the kind of error, the others its details.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(
            f"the journal {path} is in use by another process; "
            "wait for that run to end, or use a new folder"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return JournalError(
            f"the journal {path} cannot be opened for writing ({error}); "
            "check that it exists and that you may write there"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return _failing(path, error)
    return _damaged(path, str(error))
