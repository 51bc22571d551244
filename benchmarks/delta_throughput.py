"""What does a delta cost? Populations of each kind against the bare model, side by side.

In one run, on the shapes of SST-2 and AG News, λ candidates of each kind of delta × n examples
are evaluated (a) together, (b) one candidate after another, (c) not at all: a plain batched
forward of exactly the tokens that (a) must compute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import DATA, MODEL, RESULTS, Table, machine, peak_memory_mb, publish
from rich.console import Console
from rich.progress import track
from workloads import SHAPES, Workload, make_workload

from blackbox_delta.backends.local import LocalBackend, loading
from blackbox_delta.deltas import KINDS
from blackbox_delta.errors import BlackBoxDeltaError
from blackbox_delta.problem import build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import IN_SLOTS, DeltaBatch, Example, ScoreRequest

if TYPE_CHECKING:
    from blackbox_delta.problem import Frame, Problem

#: Throughput that (a) is meant to reach, as a share of (c)'s.
AIMS = dict.fromkeys(KINDS, 0.9) | dict.fromkeys(("lora", "tiny-lora", "adapter"), 0.8)
SEED = 0


@dataclass(frozen=True)
class Taken:
    """One evaluation of a whole population.

    Attributes:
        seconds: How long it took.
        tokens: Tokens that went through the model, padding not counted.
    """

    seconds: float
    tokens: int

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Contender:
    """One kind of delta on one shape.

    Args:
        kind: Which.
        backend: The model.
        workload: What is evaluated.

    Attributes:
        size: D.
    """

    def __init__(self, kind: str, backend: LocalBackend, workload: Workload) -> None:
        self._backend = backend
        problem = _problem(kind, backend, workload)
        assert problem.frame is not None
        self._request = _request(problem, problem.frame, workload)
        self.size = problem.frame.delta.size

    def together(self) -> Taken:
        """(a)."""
        return self._timed(self._request)

    def one_by_one(self, count: int) -> float:
        """(b) Seconds for all candidates, going by the first ``count`` of them."""
        delta = self._request.delta
        assert delta is not None
        began = time.perf_counter()
        for candidate in range(count):
            self._timed(self._with(delta.select([candidate])))
        return (time.perf_counter() - began) * len(delta) / count

    def _with(self, delta: DeltaBatch) -> ScoreRequest:
        return ScoreRequest(self._request.prompts, self._request.choices, delta)

    def _timed(self, request: ScoreRequest) -> Taken:
        began = time.perf_counter()
        usage = self._backend.score(request).usage
        return Taken(time.perf_counter() - began, usage.computed_tokens)


def _request(problem: Problem, frame: Frame, workload: Workload) -> ScoreRequest:
    """λ candidates as a search meets them."""
    rng = np.random.default_rng(SEED)
    z = rng.normal(size=(workload.candidates, frame.subspace.dimension))
    return problem.request(problem.train.prompts, frame.candidates(z))


def _problem(kind: str, backend: LocalBackend, workload: Workload) -> Problem:
    labels = [workload.words[label].strip() for label in workload.labels]
    examples = tuple(
        Example(text, None, label) for text, label in zip(workload.texts, labels, strict=True)
    )
    slot = "{soft}" if set(kind.split("+")).intersection(IN_SLOTS) else ""
    settings = Settings(recipe="search", delta=kind, template=f"{{text}} {slot} It was {{label}}")
    split = FewShotSplit(examples, examples, (), len(examples), SEED)
    return build_problem(backend, split, settings)


class Bare:
    """(c) The model alone on so many tokens, in the chunks that suit it best."""

    def __init__(self, loaded: loading.LoadedModel, rows: int, width: int) -> None:
        from contenders import PureForward

        self._pure = PureForward(loaded.model, rows, width)

    def forward(self) -> Taken:
        """All rows."""
        timing = self._pure.generation()
        return Taken(timing.seconds, timing.tokens)


def race(
    kind: str, loaded: loading.LoadedModel, workload: Workload, repeats: int, alone: int
) -> list[str]:
    """One row of the table: medians over turns."""
    rows = workload.candidates * len(workload.texts)
    together: list[Taken] = []
    bare: list[Taken] = []
    one_by_one: list[float] = []
    pure: Bare | None = None
    size = 0
    for _ in range(repeats):
        backend = LocalBackend.from_objects(loaded.model, loaded.tokenizer, name=loaded.name)
        try:
            contender = Contender(kind, backend, workload)
            size = contender.size
            contender.together()  # what is kept for the whole run is there from the second on
            together.append(contender.together())
            one_by_one.append(contender.one_by_one(alone))
        finally:
            backend.close()
        pure = pure or Bare(loaded, rows, max(1, round(together[0].tokens / rows)))
        bare.append(pure.forward())
    share = np.median([a.speed / c.speed for a, c in zip(together, bare, strict=True)])
    times = np.median([b / a.seconds for a, b in zip(together, one_by_one, strict=True)])
    return [
        kind,
        f"{size:,}",
        f"{together[0].tokens:,}",
        f"{np.median([each.speed for each in together]):,.0f}",
        f"{share:.2f} (≥ {AIMS.get(kind, 0.8)})",
        f"{times:.1f}",
        f"{peak_memory_mb():,.0f}",
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=MODEL, help="a causal model (default: %(default)s)")
    parser.add_argument("--dtype", choices=loading.DTYPES, default="fp32")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with sst2/ and agnews/")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--deltas", nargs="+", default=list(KINDS), help="kinds, + composes them")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=20, help="λ (default: %(default)s)")
    parser.add_argument("--examples", type=int, help="n; by default the shape's")
    parser.add_argument(
        "--alone", type=int, default=2, help="candidates that (b) takes (default: %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table is put")
    options = parser.parse_args()
    if min(options.repeats, options.candidates, options.alone, options.examples or 1) < 1:
        parser.error("numbers are at least 1")
    return options


def table_of(
    name: str, loaded: loading.LoadedModel, options: argparse.Namespace, console: Console
) -> tuple[Table, str]:
    workload, origin = make_workload(name, options.data, options.candidates, options.examples)
    alone = min(options.alone, options.candidates)
    rows: Sequence[list[str]] = [
        race(kind, loaded, workload, options.repeats, alone)
        for kind in track(options.deltas, name, console=console)
    ]
    title = SHAPES[name].title
    columns = ["delta", "D", "tokens", "tokens/s", "of the bare model", "over one by one", "MB"]
    heading = f"{title}: {workload.candidates} candidates × {len(workload.texts)} examples"
    return Table(heading, columns, rows), f"{title}: {origin} texts."


def main() -> None:
    """Runs the benchmark."""
    import torch

    options, console = parse_arguments(), Console()
    loaded = loading.load(options.model, loading.DTYPES[options.dtype], torch.device("cpu"))
    made = [table_of(name, loaded, options, console) for name in options.shapes]
    how = (
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{options.model} in {options.dtype}, {options.repeats} turns; MB is the most that the "
        "process held."
    )
    notes = [how, *(note for _, note in made)]
    publish(console, [table for table, _ in made], notes, options.results / "delta_throughput.md")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
