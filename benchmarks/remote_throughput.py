"""How much of a server's speed does this client leave? Against a bare loop, side by side.

In one run, in turns, generations of λ candidates × n examples go to a server that takes
embeddings: (a) from a bare asynchronous httpx loop that posts bodies made beforehand and looks at
nothing, (b) through this package: bodies made, replies checked, read, and written to a journal.
Both send the same prompts in requests of the same size, with new candidates every turn. Then the
server's own counters tell how many prompt tokens it computed with the slot behind the text and
with the slot in front of it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from common import DATA, MODEL, RESULTS, Table, machine, publish
from rich.console import Console
from workloads import SHAPES, Workload, make_workload

from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.backends.remote.backend import RemoteBackend
from blackbox_delta.backends.remote.opening import open_remote
from blackbox_delta.backends.remote.wires.presets import PRESETS
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.tasks import Template
from blackbox_delta.types import DeltaBatch, Example, FloatArray, ScoreRequest

SOFT_TOKENS = 10
SLOT = "soft.0"
BEHIND = Template.parse("Text: {text}{soft} It was {label}")
FRONT = Template.parse("{soft} Text: {text} It was {label}")
TOP_K = 100
METRICS = PRESETS["vllm"].metrics


@dataclass(frozen=True)
class Turn:
    """One contender's generation.

    Attributes:
        rate: Queries a second.
        cpu: CPU time of this process as a share of the wall time.
    """

    rate: float
    cpu: float


class Course:
    """Generations of one workload on one server."""

    def __init__(self, backend: RemoteBackend, workload: Workload, concurrency: int) -> None:
        self.backend, self.workload, self.concurrency = backend, workload, concurrency
        self._base = httpx.URL(f"{backend.identity['endpoint']}/")
        self._rng = np.random.default_rng(0)

    def request(self, template: Template) -> ScoreRequest:
        """A generation with candidates that were never sent before."""
        prompts = [template.render(Example(text), ()) for text in self.workload.texts]
        delta = DeltaBatch("soft-prompt", {SLOT: self._candidates()})
        return ScoreRequest(prompts, self.workload.words, delta, TOP_K)

    def bare(self) -> Turn:
        """(a), bodies made before the clock starts."""
        request = self.request(BEHIND)
        posts = [(self._base.join(job.path), job.body()) for job in self.backend.jobs(request)]
        return self._timed(lambda: asyncio.run(self._post_all(posts)), request)

    def ours(self, folder: Path) -> Turn:
        """(b), from candidates to scores that are on the disk."""
        request = self.request(BEHIND)
        with Journal.open(folder / "journal.sqlite", create=True) as journal:
            asked = JournaledBackend(self.backend, journal)
            return self._timed(lambda: asked.score(request), request)

    def computed(self, template: Template) -> float:
        """Prompt tokens a query that the server computed, by its own counters."""
        warm = self.request(template)
        self.backend.score(ScoreRequest(warm.prompts, warm.choices, warm.delta.select([0])))
        request = self.request(template)
        before = np.array(self._counters())
        self.backend.score(request)
        received, reused = np.array(self._counters()) - before
        return float(received - reused) / request.queries

    def _counters(self) -> tuple[float, float]:
        """Prompt tokens that the server received, and those it took from its cache."""
        text = httpx.get(self._base.join(METRICS.path)).raise_for_status().text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if "{" in line]
        values = {name.split("{")[0]: float(value) for name, value in lines}
        return values[METRICS.prompt_tokens], values[METRICS.cached_tokens]

    def _candidates(self) -> FloatArray:
        table = self.backend.embedding_table
        shape = (self.workload.candidates, SOFT_TOKENS, table.hidden_size)
        return (table.std * self._rng.standard_normal(shape)).astype(np.float32)

    async def _post_all(self, posts: Sequence[tuple[httpx.URL, bytes]]) -> None:
        slots = asyncio.Semaphore(self.concurrency)
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(timeout=600, limits=limits) as client:

            async def post(url: httpx.URL, body: bytes) -> None:
                async with slots:
                    reply = await client.post(
                        url, content=body, headers={"Content-Type": "application/json"}
                    )
                    reply.raise_for_status()

            await asyncio.gather(*(post(url, body) for url, body in posts))

    def _timed(self, work: Callable[[], object], request: ScoreRequest) -> Turn:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Turn(request.queries / wall, cpu / wall)


def main() -> None:
    given = arguments()
    endpoint = Endpoint(
        base_url=given.base_url, embeddings=given.embeddings, concurrency=given.concurrency
    )
    backend = open_remote(given.model, endpoint)
    console = Console()
    workload, origin = make_workload(given.shape, given.data, given.candidates, given.examples)
    course = Course(backend, workload, given.concurrency)
    course.backend.score(course.request(BEHIND))  # both find the texts in the server's cache
    bare, ours = [], []
    for repeat in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            if repeat % 2:
                bare.append(course.bare())
                ours.append(course.ours(Path(folder)))
            else:
                ours.append(course.ours(Path(folder)))
                bare.append(course.bare())
    front, behind = course.computed(FRONT), course.computed(BEHIND)
    note = (
        f"{workload.candidates} candidates × {len(workload.texts)} {origin} texts, "
        f"{given.repeats} turns each; {machine()}; server on the same machine."
    )
    publish(
        console,
        [speed_table(given.shape, bare, ours), token_table(given.shape, front, behind)],
        [note],
        given.results / "remote_throughput.md",
    )
    backend.close()


def speed_table(shape: str, bare: list[Turn], ours: list[Turn]) -> Table:
    ratio = float(np.median([mine.rate / its.rate for mine, its in zip(ours, bare, strict=True)]))
    cpu = float(np.median([turn.cpu for turn in ours]))
    rows = [
        ["queries a second, bare loop", *(f"{turn.rate:.2f}" for turn in bare)],
        ["queries a second, this client", *(f"{turn.rate:.2f}" for turn in ours)],
        ["CPU of this client / wall", *(f"{turn.cpu:.3f}" for turn in ours)],
        [f"ratio (aim ≥ 0.9): {ratio:.2f}; CPU (aim < 0.15): {cpu:.3f}", *[""] * len(bare)],
    ]
    columns = [SHAPES[shape].title, *(f"turn {turn + 1}" for turn in range(len(bare)))]
    return Table("Speed through a server", columns, rows)


def token_table(shape: str, front: float, behind: float) -> Table:
    rows = [["slot in front", f"{front:.1f}"], ["slot behind the text", f"{behind:.1f}"]]
    rows.append(["ratio (aim ≥ 1.5)", f"{front / behind:.2f}"])
    return Table("Prompt tokens that the server computed", [SHAPES[shape].title, "a query"], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="a server that takes embeddings")
    parser.add_argument("--model", help="its name there; may be left out if there is only one")
    parser.add_argument("--embeddings", default=MODEL, help="the model's embedding table")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="agnews")
    parser.add_argument("--candidates", type=int, default=20, help="λ")
    parser.add_argument("--examples", type=int, default=8, help="n")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contender")
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
