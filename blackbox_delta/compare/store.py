"""The folder of a comparison: finished cells, what unfinished ones go on from, shared replies.

::

    OUT/cells/TASK-SEED-METHOD-DIGEST.json   what was found, written at once when a cell is done
    OUT/work/TASK-SEED-METHOD-DIGEST/        what an interrupted method goes on from
    OUT/replies.sqlite                       every reply, shared by all cells: nothing is paid twice
    OUT/locks/                               held while a cell is worked on; empty files

Several processes can work on the same folder: a cell is worked on by one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blackbox_delta.artifact import write_json
from blackbox_delta.compare.cells import Cell, Finding
from blackbox_delta.errors import MissingExtraError, RunError
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.types import Backend


@dataclass(frozen=True)
class Store:
    """Where the cells of comparisons on one model are kept.

    Attributes:
        out: The folder.
    """

    out: Path

    def prepare(self) -> None:
        """Makes the folders.

        Raises:
            RunError: They cannot be made, or would lie among files of something else.
        """
        try:
            if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / "cells").is_dir():
                raise RunError(
                    f"{self.out} is not empty and holds no comparison; choose an empty or a new "
                    "folder, so that nothing in it is overwritten"
                )
            for name in ("cells", "work", "locks"):
                (self.out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.out} cannot be written: {error.strerror}") from error

    @contextmanager
    def recorded(self, backend: Backend) -> Iterator[Backend]:
        """The backend behind the replies that all cells share.

        Raises:
            JournalError: They are damaged.
        """
        path = self.out / "replies.sqlite"
        with Journal.open(path, create=not path.exists(), shared=True) as journal:
            yield JournaledBackend(backend, journal)

    def work(self, name: str) -> Path:
        """The folder of a cell's own; made if it is not there."""
        folder = self.out / "work" / name
        folder.mkdir(exist_ok=True)
        return folder

    def read(self, name: str) -> Finding | None:
        """What was found in a cell; ``None`` if it is not finished.

        A refusal counts as unfinished: what stood in the way may be mended.

        Raises:
            RunError: The file is damaged.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            finding = Finding.from_json(content["finding"], content["identity"])
        # Brackets without end are a RecursionError.
        except (OSError, ValueError, KeyError, TypeError, RecursionError, RunError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it, and the cell is worked on again"
            ) from error
        return None if finding.measured is None else finding

    def write(self, name: str, cell: Cell, finding: Finding, backend: Backend) -> None:
        """Keeps what was found.

        Raises:
            RunError: It cannot be written.
        """
        content = {
            "description": cell.description(backend),
            "identity": dict(finding.identity),
            "finding": finding.to_json(),
        }
        path = self._path(name)
        try:
            write_json(path, content)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error

    @contextmanager
    def claimed(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Whether the cell is this process's to work on meanwhile.

        Args:
            name: The cell's.
            wait: Until another process has done with it, rather than not at all.

        Raises:
            MissingExtraError: A package is not installed.
        """
        try:
            from filelock import FileLock, Timeout
        except ModuleNotFoundError:
            raise MissingExtraError("filelock", "compare", "a comparison") from None
        # The system lets go of it when the process ends, however it does.
        lock = FileLock(self.out / "locks" / f"{name}.lock")
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _path(self, name: str) -> Path:
        return self.out / "cells" / f"{name}.json"
