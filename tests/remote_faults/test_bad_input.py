"""What users get wrong, through the command line: one readable block each, and nothing lost."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from faulty_server import Fault, FaultyServer, healthy
from scenes import split, write_table
from table_server import TableServer
from typer.testing import CliRunner, Result

from blackbox_delta.cli import app
from blackbox_delta.journal import summarise
from blackbox_delta.report import time_free
from blackbox_delta.types import Example, Json

KEY = "sk-a-key-of-somebody"
#: The program, unable to let any file grow beyond so many bytes.
_LIMIT = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from blackbox_delta.cli import main
main()
"""
LIMITED = [sys.executable, "-c", _LIMIT]
WORDS = "a=great,b=terrible"

pytestmark = pytest.mark.usefixtures("no_waiting", "no_terminal")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, drawn = tmp_path_factory.mktemp("data"), split(4, 16)
    for name, part in (("train", drawn.train + drawn.dev), ("test", drawn.test)):
        (folder / f"{name}.jsonl").write_text("".join(map(line, part)))
    return folder


def line(example: Example) -> str:
    return json.dumps({"text": example.text, "label": example.label}) + "\n"


@pytest.fixture
def server(table: Path) -> Iterator[TableServer]:
    with TableServer(folder=table) as server:
        yield server


def command(data: Path, url: str, *more: object) -> list[str]:
    """A small search; what stands in ``more`` counts if an option is given twice."""
    small = ["--label-words", WORDS, "--shots", 4, "--budget", 24]
    where = ["tune", "--base-url", url, "--data", data]
    return [str(each) for each in (*where, *small, *more)]


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def refused(arguments: list[str]) -> str:
    """The error that a command ends in, on one line."""
    result = invoke(arguments)
    assert result.exit_code == 1, result.stderr
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    return the_error(result.stderr)


def the_error(stderr: str) -> str:
    assert "Traceback" not in stderr
    assert stderr.count("Error: ") == 1
    error = stderr.partition("Error: ")[2].strip()
    assert "\n\n" not in error
    assert len(error) < 1000
    return " ".join(error.split())


# ------------------------------------------------------------------------- the address


@contextmanager
def greeting(words: bytes) -> Iterator[int]:
    """A port where something else than a web server speaks first."""

    def serve() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            peer.sendall(words)
            peer.recv(65536)
            peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000/v1", "write it like https://"),
        ("ftp://127.0.0.1/v1", "write it like https://"),
        ("http://127.0.0.1:8000/v1/chat/completions", "write http://127.0.0.1:8000/v1"),
        ("http://me:secret@127.0.0.1:8000/v1", "user name or password"),
        ("http://127.0.0.1:99999/v1", "the base URL cannot be read"),
        ("http://127.0.0.1:0/v1", "the base URL cannot be read"),
        ("http://xn--a/v1", "the base URL cannot be read"),
        ("http://127.0.0.1:9/\udcff", "the base URL cannot be read"),
        ("http://no-such-host.invalid/v1", "check the address and that the server runs"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, said: str, data: Path) -> None:
    error = refused(command(data, url))
    assert said in error
    assert "secret" not in error


@pytest.mark.parametrize("more", [[], ["--model", "toy"]])
def test_a_url_of_the_right_server_with_the_wrong_path(
    more: list[str], server: TableServer, data: Path
) -> None:
    error = refused(command(data, server.url.removesuffix("/v1"), *more))
    assert "check" in error
    assert "base URL" in error
    assert not server.received


def test_a_port_where_nobody_listens(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = refused(command(data, f"http://127.0.0.1:{port}/v1"))
    assert error.startswith(f"nothing answers at http://127.0.0.1:{port}/v1")
    assert "check the address and that the server runs" in error


def test_a_port_where_something_else_listens(data: Path) -> None:
    with greeting(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        error = refused(command(data, f"http://127.0.0.1:{port}/v1"))
    assert f"http://127.0.0.1:{port}/v1" in error


def test_https_where_http_is_spoken(data: Path) -> None:
    with greeting(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        error = refused(command(data, f"https://127.0.0.1:{port}/v1"))
    assert "does it speak https?" in error


# ----------------------------------------------------------------------- key and model


@pytest.mark.parametrize("given", [True, False])
def test_a_key_that_is_wrong_or_missing(
    given: bool, table: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with TableServer(folder=table, key="another") as server:
        error = refused(command(data, server.url, *(["--key-env", "MY_KEY"] if given else [])))
    assert "does not accept the API key, or needs one" in error
    assert KEY not in error


def test_a_model_that_is_not_served(server: TableServer, data: Path) -> None:
    error = refused(command(data, server.url, "--model", "gpt-9"))
    assert "'gpt-9' is not among its models: toy" in error
    assert not server.received


def test_another_models_embedding_table(server: TableServer, data: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other", seed=1)
    vllm = ["--preset", "vllm", "--embeddings"]
    error = refused(command(data, server.url, *vllm, other))
    assert f"the embedding table in '{other}' is not that of 'toy'" in error


def test_the_models_own_embedding_table(server: TableServer, table: Path, data: Path) -> None:
    """So that the test above shows something."""
    result = invoke(command(data, server.url, "--preset", "vllm", "--embeddings", table))
    assert result.exit_code == 0, result.stderr
    assert "tier embeddings" in result.stderr


@pytest.mark.parametrize("tier", ["embeddings", "label-logprobs", "top-tokens"])
def test_a_server_without_the_log_probabilities_that_a_tier_needs(
    tier: str, server: TableServer, table: Path, data: Path
) -> None:
    server.plan = lambda _number, _prompts: Fault.NO_LOGPROBS
    vllm = ["--preset", "vllm", "--embeddings", table]
    error = refused(command(data, server.url, *vllm, "--tier", tier))
    assert f"does not offer the tier '{tier}'; it offers text" in error
    assert "log-probabilities: none" in error


@pytest.mark.parametrize("here", [True, False])
def test_a_label_word_that_the_tokenizer_splits(
    here: bool, server: TableServer, table: Path, data: Path
) -> None:
    """Whether the tokenizer is here or on the server."""
    more = ["--embeddings", table] if here else []
    words = ["--label-words", "a=gr-eat,b=terrible"]
    error = refused(command(data, server.url, "--preset", "vllm", *words, *more))
    assert "splits the label words ' gr-eat' (3 tokens)" in error
    assert "choose words of one token" in error


def test_a_chat_template_that_completions_pass_by(server: TableServer) -> None:
    result = invoke(["probe", server.url])
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "chat template" in said
    assert "--api chat does" in said


# --------------------------------------------------------------------------- in the middle


def result_of(folder: Path) -> Json:
    return time_free(json.loads((folder / "result.json").read_text()))


def test_a_key_that_is_withdrawn_in_the_middle(
    server: TableServer, table: Path, data: Path, tmp_path: Path
) -> None:
    vllm = ["--preset", "vllm", "--embeddings", table]
    sound = invoke(command(data, server.url, *vllm, "--out", tmp_path / "sound"))
    assert sound.exit_code == 0, sound.stderr
    in_all = server.answered.total() - probed(server)
    server.answered.clear()

    def plan(number: int, prompts: list[str]) -> Fault | None:
        if server.answered.total() >= 60:
            server.key = KEY
        return None

    server.plan = plan
    run = command(data, server.url, *vllm, "--out", tmp_path / "run")
    assert "does not accept the API key" in refused(run)
    server.plan, server.key = healthy, None
    kept = summarise(tmp_path / "run" / "journal.sqlite").total.replies
    assert kept > 0
    before = server.answered.total()
    resumed = invoke([*run, "--resume"])
    assert resumed.exit_code == 0, resumed.stderr
    assert result_of(tmp_path / "run") == result_of(tmp_path / "sound")
    # A resumed run does not probe, and pays only for what it lacks.
    assert server.answered.total() - before == in_all - kept


def probed(server: FaultyServer) -> int:
    """Queries of a probe with an embedding table, asked of a server like this one."""
    with TableServer(folder=server.folder) as other:  # type: ignore[attr-defined]
        arguments = ["probe", other.url, "--preset", "vllm", "--embeddings"]
        assert invoke([*arguments, str(other.folder)]).exit_code == 0
        return other.answered.total()


@pytest.mark.parametrize("skew", [timedelta(days=-36500), timedelta(0), timedelta(days=36500)])
def test_a_clock_that_is_wrong(
    skew: timedelta, server: TableServer, table: Path, data: Path, tmp_path: Path
) -> None:
    """A server asks to be left alone until a moment on its own clock, whatever that shows."""
    vllm = ["--preset", "vllm", "--embeddings", table]
    assert invoke(command(data, server.url, *vllm, "--out", tmp_path / "sound")).exit_code == 0
    now = datetime.now(UTC) + skew
    date = format_datetime(now, usegmt=True)
    server.retry_after = f"{date}\r\nDate: {date}"
    server.plan = lambda number, _prompts: Fault.TOO_MANY_WAIT if number % 5 == 0 else None
    result = invoke(command(data, server.url, *vllm, "--out", tmp_path / "run"))
    assert result.exit_code == 0, result.stderr
    assert server.faults[Fault.TOO_MANY_WAIT] >= 5
    assert result_of(tmp_path / "run") == result_of(tmp_path / "sound")


@pytest.mark.skipif(sys.platform == "win32", reason="files' sizes cannot be limited there")
def test_a_disk_that_is_full(server: TableServer, table: Path, data: Path, tmp_path: Path) -> None:
    """Files that may not grow fail as files on a full disk do."""
    vllm = ["--preset", "vllm", "--embeddings", table]
    sound = invoke(command(data, server.url, *vllm, "--out", tmp_path / "sound"))
    assert sound.exit_code == 0, sound.stderr
    in_all = server.answered.total() - probed(server)
    server.answered.clear()
    run = command(data, server.url, *vllm, "--out", tmp_path / "run")
    ended = subprocess.run([*LIMITED, *run], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    error = the_error(ended.stderr)
    assert "journal.sqlite could not be read or written" in error
    assert "nothing that it held was lost: free space or mend the disk, then resume" in error
    kept = summarise(tmp_path / "run" / "journal.sqlite").total.replies
    assert 0 < kept < in_all
    before = server.answered.total()
    resumed = invoke([*run, "--resume"])
    assert resumed.exit_code == 0, resumed.stderr
    assert server.answered.total() - before == in_all - kept
    assert result_of(tmp_path / "run") == result_of(tmp_path / "sound")


# ------------------------------------------------------------------------- names and numbers


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "x" * 300], "File name too long"),
        (["--out", "x" * 300, "--seeds", 2], "File name too long"),
        (["--out", "run", "--cache", "x" * 300], "File name too long"),
        (["--data", "x" * 300], "File name too long"),
        (["--price-in", "1e30", "--price-out", 0], "at most 1,000,000"),
    ],
)
def test_a_name_or_number_beyond_all_bounds(
    more: list[object], said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = ["tune", "--model", "fake", "--data", data, "--shots", 4, "--label-words", WORDS]
    result = invoke([str(each) for each in (*local, *more)])
    assert result.exit_code == 1, result.stderr
    assert said in the_error(result.stderr)
    assert not list(tmp_path.glob("run*"))


def test_a_key_in_place_of_its_variable_is_not_shown(data: Path) -> None:
    error = refused(command(data, "http://127.0.0.1:9/v1", "--key-env", KEY))
    assert "wants the name of an environment variable" in error
    assert KEY not in error
