"""What happened in a run, one JSON line a generation, written as it happens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, Self

from blackbox_delta.errors import RunError
from blackbox_delta.types import Json


class History:
    """An append-only file of JSON lines.

    A resumed run replays its generations from the journal and appends each of them again. Those
    that the file already holds are compared with it and kept as they stand, times included.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, file: IO[str], earlier: list[Json]) -> None:
        self.path = path
        self._file = file
        self._earlier = earlier
        self._appended = 0

    @classmethod
    def open(cls, path: Path, *, resume: bool) -> History:
        """Starts a new file, or with ``resume`` goes on with one where it exists.

        A last line that a kill tore off is dropped.

        Raises:
            RunError: The file exists already (without ``resume``), is damaged or cannot be written.
        """
        try:
            if not resume:
                return cls(path, path.open("x", encoding="utf-8"), [])
            earlier, length = _read(path) if path.exists() else ([], 0)
            file = path.open("a", encoding="utf-8")
            file.truncate(length)
        except FileExistsError:
            raise RunError(f"{path} exists already; resume that run or use a new folder") from None
        except OSError as error:
            raise RunError(f"the history {path} cannot be opened: {error.strerror}") from error
        return cls(path, file, earlier)

    @property
    def records(self) -> list[Json]:
        """All complete records in the file, earlier ones included."""
        return read_history(self.path)

    def append(self, record: Json) -> None:
        """Writes one record down for good, or compares it with the one already there.

        Args:
            record: Finite numbers, texts, lists and mappings. ``seconds`` and keys that end in
                ``_seconds`` are times, which may differ when a run is replayed.

        Raises:
            RunError: The file tells another story, or cannot be written.
            ValueError: The record holds a number that is not finite.
        """
        line = json.dumps(record, allow_nan=False, ensure_ascii=False)
        if self._appended < len(self._earlier):
            self._compare(self._earlier[self._appended], json.loads(line))
        else:
            self._write(line + "\n")
        self._appended += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compare(self, earlier: Json, replayed: Json) -> None:
        before, now = _without_times(earlier), _without_times(replayed)
        if before == now:
            return
        keys = before.keys() | now.keys()
        differing = sorted(key for key in keys if before.get(key, ...) != now.get(key, ...))
        raise RunError(
            f"this folder's history was made by another run: line {self._appended + 1} of "
            f"{self.path} differs in {', '.join(differing)}; "
            "resume with the same settings, data and versions, or use a new folder"
        )

    def _write(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(
                f"the history {self.path} could not be written: {error.strerror}; "
                "mend that and resume the run"
            ) from error


def read_history(path: Path) -> list[Json]:
    """All complete records of a history file; a torn last line is left out.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return _read(path)[0]
    except OSError as error:
        raise RunError(f"the history {path} cannot be read: {error.strerror}") from error


def _read(path: Path) -> tuple[list[Json], int]:
    """The records of the complete lines, and those lines' length in bytes."""
    data = path.read_bytes()
    length = data.rfind(b"\n") + 1
    lines = data[:length].split(b"\n")[:-1]
    return [_record(path, number, line) for number, line in enumerate(lines, 1)], length


def _record(path: Path, number: int, line: bytes) -> Json:
    try:
        record = json.loads(line)
    # Digits without end are a ValueError too, brackets without end a RecursionError.
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise RunError(f"line {number} of {path} is damaged: it is not a JSON object")
    return record


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_times(item) for key, item in value.items() if not _is_time(key)}


def _is_time(key: str) -> bool:
    return key == "seconds" or key.endswith("_seconds")
