"""Files that ``predict`` writes: whole or not at all, and never over something else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command_line import PROGRAM, failed, run, spend, write_lines

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli.files import written
from blackbox_delta.errors import BackendError
from blackbox_delta.types import ScoreRequest, Scores, Sink


def test_an_output_that_cannot_be_written_costs_no_query(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "score", spend)
    done = run("predict", finished, "--output", tmp_path / "no" / "answers.jsonl", stdin="a film")
    assert "cannot be written" in failed(done)


class BreaksDown(FakeBackend):
    """The toy model until it is asked about a certain text."""

    at = "film 200"

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if any(self.at in str(prompt) for prompt in request.prompts):
            raise BackendError("the model broke down")
        return super().score(request, sink)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "many.jsonl", [{"text": f"film {n}"} for n in range(300)])


def test_an_output_is_replaced_once_it_is_whole(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, partial = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.partial"
    output.write_text("precious\n")
    output.chmod(0o600)
    command = ["predict", finished, many, "--output", output]
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
        done = run(*command)
    assert "the model broke down" in failed(done)
    assert f"What was answered is in {partial}." in done.stderr
    assert output.read_text() == "precious\n"
    lines = partial.read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [f"film {n}" for n in range(128)]
    assert run(*command, "--cache", tmp_path / "cache").exit_code == 0
    assert output.read_text().startswith(partial.read_text())
    assert len(output.read_text().splitlines()) == 300
    assert output.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))


def test_what_an_earlier_failure_left_is_never_replaced(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    output, cache = tmp_path / "link", tmp_path / "cache"
    output.symlink_to(tmp_path / "there" / "answers.jsonl")
    partial = tmp_path / "there" / "answers.jsonl.partial"
    command = ["predict", finished, many, "--output", output]
    monkeypatch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
    failed(run(*command))
    left = partial.read_text()
    # Fails earlier than the first time, and would leave less.
    monkeypatch.setattr(BreaksDown, "at", "film 1")
    with monkeypatch.context() as patch:
        patch.setattr(FakeBackend, "score", spend)
        message = " ".join(failed(run(*command)).split())
    assert f"{partial} is there already: it holds what was answered before" in message
    assert "rename or remove it, or add --cache FILE" in message
    # A cache keeps what is answered, so that the same command goes on as often as it takes.
    for _ in range(2):
        assert "the model broke down" in failed(run(*command, "--cache", cache))
    assert partial.read_text() == left
    partial.unlink()
    monkeypatch.setattr(BreaksDown, "at", "film 200")
    failed(run(*command))
    assert partial.read_text() == left


def test_what_a_killed_command_left_is_never_replaced(
    finished: Path, many: Path, tmp_path: Path
) -> None:
    output, left = tmp_path / "answers.jsonl", tmp_path / ".answers.jsonl.new"
    left.write_text("paid\n")
    message = " ".join(failed(run("predict", finished, many, "--output", output)).split())
    assert f"{left} is there already: it holds what was answered before another" in message
    assert left.read_text() == "paid\n"
    left.write_text("")
    assert run("predict", finished, many, "--output", output).exit_code == 0
    assert not left.exists()


def test_what_another_command_left_meanwhile_is_not_replaced_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, partial = tmp_path / "answers", tmp_path / "answers.partial"

    def interrupted() -> None:
        with written(output, keep=True) as stream:
            stream.write("mine\n")
            partial.write_text("theirs\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert partial.read_text() == "theirs\n"
    [left] = set(tmp_path.iterdir()) - {partial}
    assert left.read_text() == "mine\n"
    assert f"What was answered is in {left}." in capsys.readouterr().err


def test_nothing_is_left_of_an_output_without_answers(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
    monkeypatch.setattr(BreaksDown, "at", "film 1")
    failed(run("predict", finished, many, "--output", tmp_path / "answers.jsonl"))
    assert list(tmp_path.iterdir()) == [many]


def test_an_output_behind_a_link_is_replaced_and_the_link_stays(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "answers.jsonl")
    assert run("predict", finished, "--output", link, stdin="a film\n").exit_code == 0
    assert link.is_symlink()
    assert len((tmp_path / "there" / "answers.jsonl").read_text().splitlines()) == 1


def test_a_device_is_written_to_and_not_replaced(finished: Path) -> None:
    done = run("predict", finished, "--output", "/dev/null", stdin="a film\n")
    assert done.exit_code == 0, done.output
    assert not Path("/dev/null").is_file()


def test_an_output_never_destroys_what_is_read(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "score", spend)
    link, cache = tmp_path / "link", tmp_path / "cache"
    link.hardlink_to(many)
    before = {path: path.read_bytes() for path in [many, *finished.iterdir()]}
    for output in (many, link, tmp_path / ".." / tmp_path.name / "many.jsonl"):
        message = failed(run("predict", finished, many, "--output", output))
        assert "is the input itself" in message
    for output, said in ((cache, "is the cache itself"), (f"{cache}-wal", "belongs to the cache")):
        message = failed(run("predict", finished, many, "--cache", cache, "--output", output))
        assert said in message
    for name in ("run.json", "result.json", "artifact.safetensors", "journal.sqlite-wal"):
        message = failed(run("predict", finished, many, "--output", finished / name))
        assert "is part of a run" in message
    assert {path: path.read_bytes() for path in [many, *finished.iterdir()]} == before


def test_an_output_with_too_long_a_name_is_one_clear_error(finished: Path) -> None:
    done = run("predict", finished, "--output", "x" * 300, stdin="a film\n")
    assert "cannot be written: File name too long" in failed(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["predict", "journal"])
def test_a_full_disk_under_stdout_is_told_in_one_line(
    command: str, finished: Path, many: Path
) -> None:
    arguments = [command, str(finished), *([str(many)] if command == "predict" else [])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    message = "Error: stdout: No space left on device; free space and repeat the command"
    assert done.stderr.strip().splitlines()[-1] == message
    assert "Traceback" not in done.stderr
