"""Runs that are stopped and resumed, and the program as a process: pipes, Ctrl-C, full disks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROGRAM, failed, hearing, result_of, run, tune, write_lines

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.types import ScoreRequest, Scores, Sink


def test_a_folder_to_resume_that_holds_no_run_is_named(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "mistyped", "--resume")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert f"There is no run in {tmp_path / 'mistyped'} yet: a new one begins." in said


def test_a_finished_run_is_resumed_to_the_same_report(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = tune(data, "--out", folder)
    before = result_of(folder)
    again = tune(data, "--out", folder, "--resume")
    assert "a new one begins" not in again.stderr
    assert again.exit_code == 0, again.output
    assert result_of(folder) == before
    assert again.stdout.splitlines()[:8] == first.stdout.splitlines()[:8]


class Interrupted(FakeBackend):
    """Presses Ctrl-C after three requests."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().score(request, sink)


class Failing(FakeBackend):
    def __init__(self, name: str) -> None:
        super().__init__(name, fail_at={4})


@pytest.mark.parametrize(("broken", "code"), [(Interrupted, 130), (Failing, 1)])
def test_a_stopped_run_goes_on_to_the_same_report(
    broken: type[FakeBackend],
    code: int,
    data: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.backends.fake.FakeBackend", broken)
        stopped = tune(data, "--out", folder)
    assert stopped.exit_code == code
    if code == 130:
        assert "Stopped; go on with the same command and --resume." in stopped.stderr
        assert "Error" not in stopped.stderr
    assert not (folder / "result.json").exists()
    message = " ".join(failed(run("predict", folder, stdin="a film")).split())
    assert "is not finished; the command that began it goes on with --resume" in message
    resumed = tune(data, "--out", folder, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert result_of(folder) == result_of(finished)


def started(data: Path, *more: object) -> subprocess.Popen[str]:
    options = ["--dimension", 20, "--soft-tokens", 3, "--shots", 4, "--recipe", "search", *more]
    command = [*PROGRAM, "tune", "--model", "fake", "--data", data, *options]
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hearing,  # noqa: PLW1509
    )


def test_a_pipe_gets_one_plain_line_a_generation(data: Path) -> None:
    process = started(data, "--budget", 65)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    plan, *generations, test = stderr.splitlines()
    assert test.startswith("test: ")
    assert plan.startswith("fake: 65 calls at most, 8 training and 8 development examples")
    assert [line.split(":")[0] for line in generations] == [f"generation {n}" for n in (1, 2, 3)]
    assert all(line.isprintable() for line in (stdout + stderr).splitlines())


def test_a_pipe_gets_plain_lines_about_views(data: Path) -> None:
    process = started(data, "--recipe", "auto", "--budget", 4, "--max-test", 10)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    plan, *steps = stderr.splitlines()
    assert plan.startswith("fake: 4 calls at most, 8 training examples of 2 classes; several views")
    assert steps[0].startswith("1 view: held-out loss ")
    assert " of 4 calls, " in steps[0]
    assert steps[-1].endswith("queries answered")
    assert all(line.isprintable() for line in (stdout + stderr).splitlines())


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_stop_ends_with_one_sentence(told: signal.Signals, data: Path) -> None:
    with started(data, "--budget", 1_000_000) as process:
        assert process.stderr is not None
        while "generation 1" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(told)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 128 + told
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "Stopped; without --out nothing was kept."


def test_a_reader_that_leaves_early_is_no_error(finished: Path, tmp_path: Path) -> None:
    many = write_lines(tmp_path / "many.jsonl", [{"text": f"film {n}"} for n in range(5000)])
    process = subprocess.Popen(
        [*PROGRAM, "predict", str(finished), str(many)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"] == "film 0"
        process.stdout.close()
        assert process.stderr.read() == ""


def test_verbose_says_more(data: Path) -> None:
    script = (
        "import logging; from blackbox_delta.cli import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, [{flag} 'tune', '--model', 'fake', '--data', '.none']);"
        "print(logging.getLogger('blackbox_delta.api').isEnabledFor(logging.INFO))"
    )
    for flag, expected in (("", "False\n"), ("'--verbose',", "True\n")):
        command = [sys.executable, "-c", script.format(flag=flag)]
        assert subprocess.check_output(command, text=True, cwd=data) == expected


def test_what_a_library_prints_itself_is_printed_once(data: Path) -> None:
    script = """if True:
        import logging
        from blackbox_delta.cli import app

        try:
            app(["journal", ".none"])
        except SystemExit:
            logging.getLogger("loud").addHandler(logging.StreamHandler())
            logging.getLogger("loud.part").warning("once")
            logging.getLogger("quiet").warning("too")
    """
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=data)
    assert done.stderr.splitlines()[-2:] == ["once", "WARNING: too"]
    assert done.stderr.count("once") == 1
