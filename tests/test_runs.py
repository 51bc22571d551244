from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blackbox_delta.artifact import Artifact, scratch_path
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import ArtifactError, JournalError, RunError
from blackbox_delta.heads import make_head
from blackbox_delta.journal import JournaledBackend
from blackbox_delta.members import Member
from blackbox_delta.problem import Reader
from blackbox_delta.runs import (
    HISTORY_NAME,
    JOURNAL_NAME,
    RESULT_NAME,
    RUN_NAME,
    VERSION,
    is_part_of_run,
    open_run,
    read_description,
    read_result,
    result_of_one,
    saved_run,
)
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.types import AnswerSlot, Json, Prompt, ScoreRequest, Words

DESCRIPTION: Json = {
    "settings": {"seed": 3, "shots": 16, "label_words": None},
    "model": "fake",
    "data": "abc",
}
REQUEST = ScoreRequest([Prompt((Words("a text"), AnswerSlot()))], [" good", " bad"])


def work(path: Path, *, resume: bool = False, finish: bool = False) -> int:
    """A very small run; returns what it paid for."""
    with open_run(path, DESCRIPTION, resume=resume) as run:
        backend = JournaledBackend(FakeBackend(), run.journal)
        scores = backend.score(REQUEST)
        run.history.append({"generation": 1})
        if finish:
            reader = Reader(
                Template.parse("{text} {label}"), Verbalizer(("a", "b"), ("good", "bad"))
            )
            evidence = scores.candidate(0)
            head = make_head("plain").fit(evidence, None, None)  # type: ignore[arg-type]
            run.finish(Artifact.of(backend, [Member("it", reader, head)]), {"calls": 1})
        return backend.paid


def test_a_new_folder_holds_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    assert work(path) == 1
    assert {entry.name for entry in path.iterdir()} == {RUN_NAME, JOURNAL_NAME, HISTORY_NAME}
    assert json.loads((path / RUN_NAME).read_text()) == {"version": VERSION, **DESCRIPTION}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert work(tmp_path) == 1


def test_a_resumed_run_finds_what_was_paid_and_written(tmp_path: Path) -> None:
    work(tmp_path)
    before = (tmp_path / HISTORY_NAME).read_bytes()
    assert work(tmp_path, resume=True) == 0
    assert (tmp_path / HISTORY_NAME).read_bytes() == before


@pytest.mark.parametrize("leftover", [False, True])
def test_what_was_never_started_can_be_resumed(leftover: bool, tmp_path: Path) -> None:
    if leftover:  # killed while it wrote its first file
        scratch_path(tmp_path / RUN_NAME).write_text('{"version": 1, "se')
    assert work(tmp_path, resume=True) == 1
    assert not scratch_path(tmp_path / RUN_NAME).exists()


def test_only_a_finished_run_has_a_result(tmp_path: Path) -> None:
    assert read_result(tmp_path / "nowhere") is None
    work(tmp_path)
    assert read_result(tmp_path) is None
    work(tmp_path, resume=True, finish=True)
    assert read_result(tmp_path) == {"calls": 1}


# ------------------------------------------------------------------- what is refused


def test_a_run_is_not_started_twice(tmp_path: Path) -> None:
    work(tmp_path)
    with pytest.raises(RunError, match="holds a run already; add --resume"):
        work(tmp_path)


def test_a_folder_with_other_things_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no run"):
            work(tmp_path, resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("here")
    for place in (path, path / "below"):
        with pytest.raises(RunError):
            work(place)
    with pytest.raises(RunError, match="is a file; name a folder"):
        work(path, resume=True)
    assert path.read_text() == "here"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "fake:other"}, "model: 'fake' then, 'fake:other' now"),
        ({"settings": {**DESCRIPTION["settings"], "seed": 4}}, r"settings\.seed: 3 then, 4 now"),
        (
            {"settings": {**DESCRIPTION["settings"], "label_words": {"a": "b"}}},
            r"settings\.label_words\.a: nothing then, 'b' now",
        ),
        (
            {"address": {"url": "http://there/v1", "limits": {"requests": 5}}},
            r"\(address\.limits\.requests: nothing then, 5 now; address\.url: nothing then, 'http",
        ),
        ({"data": "abd"}, r"\(data: other examples, or drawn otherwise\)"),
        ({"unlabeled": "9f3a"}, r"\(unlabeled: none then, some now\)"),
        ({"settings": {"seed": 3, "shots": 16}}, r"label_words: None then, nothing now"),
    ],
)
def test_another_runs_folder_is_refused_and_the_difference_named(
    change: Json, named: str, tmp_path: Path
) -> None:
    work(tmp_path)
    other = {**DESCRIPTION, **change}
    with pytest.raises(RunError, match=named) as caught, open_run(tmp_path, other, resume=True):
        pass
    assert "shots" not in str(caught.value), "only what differs is named"


HOLD = """
import sys
from pathlib import Path
from blackbox_delta.runs import open_run
with open_run(Path(sys.argv[1]), {}, resume=False):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_process_uses_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with (
            pytest.raises(JournalError, match="in use by another process"),
            open_run(tmp_path, {}, resume=True),
        ):
            pass
        process.communicate()
    with open_run(tmp_path, {}, resume=True) as run:
        assert len(run.journal) == 0


# ------------------------------------------------------------------- what is damaged


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", [RUN_NAME, RESULT_NAME])
def test_a_damaged_description_or_result_is_named(
    name: str, content: bytes, tmp_path: Path
) -> None:
    work(tmp_path, finish=True)
    (tmp_path / name).write_bytes(content)
    read: dict[str, Callable[[], Any]] = {
        RUN_NAME: lambda: work(tmp_path, resume=True),
        RESULT_NAME: lambda: read_result(tmp_path),
    }
    with pytest.raises(RunError, match=f"{name} is damaged"):
        read[name]()


@pytest.mark.parametrize("best", ["3", "{}", '{"folder": 3}', '"seed-3"'])
def test_a_common_result_may_be_damaged_within(best: str, tmp_path: Path) -> None:
    (tmp_path / RESULT_NAME).write_text(f'{{"recommended": {best}}}')
    with pytest.raises(RunError, match="several seeds; name one of them$"):
        result_of_one(tmp_path)


def test_runs_that_are_not_finished_say_so(tmp_path: Path) -> None:
    work(tmp_path / "seed-3")
    with pytest.raises(RunError, match="seed-3 is not finished; the command that began it goes on"):
        saved_run(tmp_path / "seed-3")
    with pytest.raises(RunError, match=r"not all of them finished; .*, such as \S+seed-3"):
        saved_run(tmp_path)
    with pytest.raises(ArtifactError, match="not the folder of a finished run"):
        saved_run(tmp_path / "elsewhere")


def test_a_damaged_result_is_written_again(tmp_path: Path) -> None:
    work(tmp_path, finish=True)
    (tmp_path / RESULT_NAME).write_text("{")
    assert work(tmp_path, resume=True, finish=True) == 0
    assert read_result(tmp_path) == {"calls": 1}


@pytest.mark.parametrize("content", [b"not a journal, but long enough to be one", b"\0" * 99])
def test_a_damaged_journal_is_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    work(tmp_path)
    (tmp_path / JOURNAL_NAME).write_bytes(content)
    with pytest.raises(JournalError, match=JOURNAL_NAME):
        work(tmp_path, resume=True)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == content


@pytest.mark.parametrize("how", ["missing", "empty"])
@pytest.mark.parametrize("trace", [HISTORY_NAME, RESULT_NAME])
def test_a_run_that_lost_its_replies_does_not_pay_them_again(
    how: str, trace: str, tmp_path: Path
) -> None:
    work(tmp_path, finish=True)
    for name in {HISTORY_NAME, RESULT_NAME} - {trace}:
        (tmp_path / name).unlink()
    (tmp_path / JOURNAL_NAME).unlink()
    if how == "empty":
        (tmp_path / JOURNAL_NAME).touch()
    for _ in range(2):
        with pytest.raises(RunError, match="has lost its replies"):
            work(tmp_path, resume=True)


def test_a_damaged_history_is_refused(tmp_path: Path) -> None:
    work(tmp_path)
    (tmp_path / HISTORY_NAME).write_text("nonsense\n")
    with pytest.raises(RunError, match=f"line 1 of .*{HISTORY_NAME} is damaged"):
        work(tmp_path, resume=True)


def test_a_history_of_another_run_is_refused(tmp_path: Path) -> None:
    work(tmp_path)
    (tmp_path / HISTORY_NAME).write_text('{"generation": 7}\n')
    with pytest.raises(RunError, match="made by another run"):
        work(tmp_path, resume=True)


def test_a_newer_version_is_refused_as_such(tmp_path: Path) -> None:
    work(tmp_path)
    newer = {"version": VERSION + 1, "settings": "in another form"}
    (tmp_path / RUN_NAME).write_text(json.dumps(newer))
    with pytest.raises(RunError, match=f"started by version {VERSION + 1} of this format"):
        work(tmp_path, resume=True)


def test_what_belongs_to_a_run(tmp_path: Path) -> None:
    started, seeds, bare = (tmp_path / name for name in ("run", "seeds", "bare"))
    for folder in (started, seeds / "seed-3", bare):
        folder.mkdir(parents=True)
    for folder in (started, seeds / "seed-3"):
        (folder / "run.json").touch()
    for name in ("run.json", "result.json", "journal.sqlite-wal", "artifact.json"):
        assert is_part_of_run(started / name)
        assert is_part_of_run(bare / ".." / "run" / name)
        assert not is_part_of_run(bare / name)
        assert not is_part_of_run(tmp_path / "nowhere" / name)
    assert is_part_of_run(seeds / "result.json")
    assert not is_part_of_run(started / "answers.jsonl")


@pytest.mark.parametrize("look", [read_description, read_result])
def test_a_name_that_is_too_long_is_one_clear_error(look: Any, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(RunError, match="File name too long"):
        look(path)
    with pytest.raises(RunError, match="File name too long"), open_run(path, {}, resume=False):
        pass


def test_another_budget_is_told_what_to_do_instead_of_resuming(tmp_path: Path) -> None:
    then, now = ({"settings": {"budget": budget, "seed": 0}} for budget in ("9", "200"))
    with open_run(tmp_path / "run", then, resume=False):
        pass
    with (
        pytest.raises(RunError, match=f"--cache {tmp_path / 'run' / JOURNAL_NAME} what is paid"),
        open_run(tmp_path / "run", now, resume=True),
    ):
        pass
    other = {"settings": {"budget": "9", "seed": 1}}
    with (
        pytest.raises(RunError, match="or choose another folder$"),
        open_run(tmp_path / "run", other, resume=True),
    ):
        pass
