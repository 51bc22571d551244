"""Run folders: what belongs to a run, who may go on with it, and what it reported.

A folder holds ``run.json`` (what was asked for), ``journal.sqlite`` (every reply),
``history.jsonl`` (every generation), and when the run is finished ``result.json`` and the
artifact. Killing the process at any moment leaves a folder that can be resumed; until then
``journal.sqlite-wal`` holds the latest replies, so a copy of the folder needs it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME, Artifact, scratch_path, write_json
from blackbox_delta.errors import RunError
from blackbox_delta.history import History
from blackbox_delta.journal import Journal
from blackbox_delta.types import Json

RUN_NAME = "run.json"
RESULT_NAME = "result.json"
HISTORY_NAME = "history.jsonl"
JOURNAL_NAME = "journal.sqlite"
VERSION = 1
_BUDGET = "settings.budget"
#: What is described by a digest, which tells a reader nothing but that it differs.
_DIGESTS = {
    "data": "other examples, or drawn otherwise",
    "unlabeled": "other texts without labels",
    "subspace_from": "other earlier runs",
    "identity.fingerprint": "other weights, configuration or tokenizer",
}


@dataclass(frozen=True)
class RunFolder:
    """An open run folder; no other process can use it meanwhile.

    Attributes:
        path: The folder.
        journal: Every reply.
        history: Every generation.
    """

    path: Path
    journal: Journal
    history: History

    def finish(self, artifact: Artifact, result: Json) -> None:
        """Writes what the run found and reports; the report comes last and marks the end.

        Raises:
            RunError: They cannot be written.
        """
        artifact.save(self.path)
        write_record(self.path / RESULT_NAME, result)


@contextmanager
def open_run(path: Path, description: Json, *, resume: bool) -> Iterator[RunFolder]:
    """A new run folder, or with ``resume`` an earlier one of the same run.

    Args:
        path: The folder.
        description: Everything that determines the run; a resumed one must have been started
            with the same.
        resume: Go on with what is there.

    Raises:
        RunError: The folder is in use, damaged, not empty (without ``resume``) or belongs to
            another run.
    """
    description = {"version": VERSION, **json.loads(json.dumps(description))}
    if check_folder(path, resume=resume):
        _check_same(path, description)
    else:
        _start(path, description)
    journal_path = path / JOURNAL_NAME
    with (
        Journal.open(journal_path, create=not journal_path.exists()) as journal,
        History.open(path / HISTORY_NAME, resume=True) as history,
    ):
        if not len(journal) and (history.records or (path / RESULT_NAME).exists()):
            raise RunError(
                f"{path} has lost its replies: {JOURNAL_NAME} is empty though the run went on; "
                "restore it from a copy, or start again in a new folder"
            )
        yield RunFolder(path, journal, history)


def check_folder(path: Path, *, resume: bool) -> bool:
    """Checks that a run can be begun in a folder, or goes on there; makes nothing.

    Returns:
        Whether there is one to go on with.

    Raises:
        RunError: There is a run already (without ``resume``), or something else.
    """
    if is_there(path / RUN_NAME):
        if not resume:
            raise RunError(
                f"{path} holds a run already; add --resume (in Python resume=True) to go on with "
                "it, or choose another folder"
            )
        return True
    for place in (path, *path.parents):
        if is_there(place):
            if not place.is_dir():
                raise RunError(f"{place} is a file; name a folder for the run")
            break
    # A kill may have left the half-written description behind.
    if path.is_dir() and set(_content(path)) - {scratch_path(path / RUN_NAME)}:
        raise RunError(
            f"{path} is not empty and holds no run; choose an empty or a new folder, so that "
            "nothing in it is overwritten"
        )
    return False


def check_holds_no_run(path: Path) -> None:
    """Checks that an artifact which is written there takes no run's place.

    Raises:
        RunError: There is a run.
    """
    for name in (RUN_NAME, RESULT_NAME):
        if is_there(path / name):
            raise RunError(
                f"{path} holds a run, whose result would then tell of another model; save into "
                "another folder"
            )


def _content(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise RunError(f"the run folder {path} cannot be used: {error.strerror}") from error


def read_description(path: Path) -> Json | None:
    """What a run was started with, or ``None`` where there is no run.

    Raises:
        RunError: The file is damaged, or there can be none of that name.
    """
    return _read(path / RUN_NAME) if is_there(path / RUN_NAME) else None


def read_result(path: Path) -> Json | None:
    """What a finished run reported, or ``None`` if it is not finished.

    Raises:
        RunError: The file is damaged, or there can be none of that name.
    """
    if not is_there(path / RESULT_NAME):
        return None
    return _read(path / RESULT_NAME)


def result_of_one(path: Path) -> Json | None:
    """What :func:`read_result` gives of a run with one seed.

    Raises:
        RunError: The folder holds runs with several seeds, or its result is damaged.
    """
    result = read_result(path)
    if result is not None and "recommended" in result:
        best = result["recommended"]
        folder = best.get("folder") if isinstance(best, dict) else None
        raise RunError(
            f"{path} holds runs with several seeds; name one of them"
            + (f", such as {path / folder}" if isinstance(folder, str) else "")
        )
    return result


def artifact_of_one(path: Path) -> Artifact:
    """What a run with one seed has tuned.

    Raises:
        RunError: As :func:`result_of_one`.
        ArtifactError: There is none, or it is damaged.
    """
    return saved_run(path)[0]


def saved_run(path: Path) -> tuple[Artifact, Json | None]:
    """What a run with one seed has tuned, and what it reported.

    Raises:
        RunError: As :func:`result_of_one`, or the run is not finished.
        ArtifactError: There is none, or it is damaged.
    """
    result = result_of_one(path)
    if result is None and not is_there(path / JSON_NAME):
        _check_begun(path)
    return Artifact.load(path), result


def _check_begun(path: Path) -> None:
    """Says of a run that was interrupted what it is."""
    if is_there(path / RUN_NAME):
        raise RunError(
            f"the run in {path} is not finished; the command that began it goes on with --resume"
        )
    seeds = [each for each in _content(path) if is_there(each / RUN_NAME)] if path.is_dir() else []
    if seeds:
        raise RunError(
            f"{path} holds runs with several seeds, not all of them finished; the command that "
            f"began them goes on with --resume, or name one that is, such as {min(seeds)}"
        )


def is_run_journal(path: Path) -> bool:
    """Whether a file is the journal of a run, which tells what that run cost."""
    return path.name == JOURNAL_NAME and is_there(path.with_name(RUN_NAME))


def is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        RunError: There can be none, e.g. because its name is too long.
    """
    try:
        return path.exists()
    except OSError as error:
        raise RunError(f"{path} cannot be used: {error.strerror}; choose another folder") from error


def side_files(journal: Path) -> tuple[Path, ...]:
    """What SQLite keeps beside a journal while it is open, or after a kill."""
    return tuple(journal.with_name(journal.name + end) for end in ("-wal", "-shm", "-journal"))


def is_part_of_run(path: Path) -> bool:
    """Whether a file of this name, there or not, belongs to the run whose folder it is in."""
    real = Path(os.path.realpath(path))
    marks = {RUN_NAME, JSON_NAME, ARRAYS_NAME, JOURNAL_NAME}
    beside_journal = (beside.name for beside in side_files(Path(JOURNAL_NAME)))
    if real.name not in {*marks, RESULT_NAME, HISTORY_NAME, *beside_journal}:
        return False
    try:
        there = list(real.parent.iterdir())
    except OSError:
        return False
    # Beside the runs of several seeds their common result is.
    return any(other.name in marks or (other / RUN_NAME).exists() for other in there)


def _start(path: Path, description: Json) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the run folder {path} cannot be used: {error.strerror}") from error
    write_record(path / RUN_NAME, description)


def write_record(path: Path, value: Json) -> None:
    """Replaces a JSON file of a run at once.

    Raises:
        RunError: It cannot be written.
    """
    try:
        write_json(path, value)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; mend that and resume the run"
        ) from error


def _check_same(path: Path, description: Json) -> None:
    earlier = _read(path / RUN_NAME)
    if earlier.get("version") != VERSION:
        raise RunError(
            f"the run in {path} was started by version {earlier.get('version')} of this format, "
            f"this package goes on with version {VERSION}"
        )
    then, now = _flat(earlier), _flat(description)
    names = sorted({*then, *now})
    if different := [name for name in names if _shown(then, name) != _shown(now, name)]:
        named = "; ".join(_difference(then, now, name) for name in different)
        advice = "or choose another folder"
        if _BUDGET in different:
            # What is asked first depends on what can be paid in all: no replay, but a new run.
            advice += (
                "; another budget plans otherwise from the start, and with --cache "
                f"{path / JOURNAL_NAME} what is paid already is not paid again"
            )
        raise RunError(
            f"{path} belongs to another run ({named}); resume it with what it was started with, "
            f"{advice}"
        )


def _flat(described: Json) -> Json:
    """Nested descriptions by their inner names, which are the users' own: ``settings.seed``."""
    flat: Json = {}
    for name, value in described.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": it for inner, it in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _difference(then: Json, now: Json, name: str) -> str:
    """What differs, in a reader's words."""
    if name not in _DIGESTS:
        return f"{name}: {_shown(then, name)} then, {_shown(now, name)} now"
    if name in then and name in now:
        return f"{name}: {_DIGESTS[name]}"
    return f"{name}: some then, none now" if name in then else f"{name}: none then, some now"


def _shown(flat: Json, name: str) -> str:
    return repr(flat[name]) if name in flat else "nothing"


def _read(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    # Brackets without end are a RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged and cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: not a JSON object")
    return value
