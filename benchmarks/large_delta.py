"""How much memory does the search of a very large delta take? A generation beside the bare model.

All linear layers of the model are tuned, D of about 10^8 for SmolLM2-135M. In one process (a) the
model alone reads λ × n rows, and then (b) a generation of λ candidates on n texts lasts from asking
the optimizer to telling it the losses. (c) makes all tensors of such a generation and drops them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import MODEL, RESULTS, Table, machine, publish, resident_memory_mb
from rich.console import Console

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.compare.memory import PeakMemory
from blackbox_delta.errors import BlackBoxDeltaError
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.problem import Problem, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Example, Optimizer

TEXTS = {
    "a fine film": "great",
    "the plot is dull and far too long": "terrible",
    "I would go again": "great",
    "nobody should have to see it": "terrible",
}
SEED = 0


@dataclass(frozen=True)
class Step:
    """What something took.

    Attributes:
        name: What.
        seconds: How long it took.
        peak_mb: The most that the process held meanwhile, in MB.
    """

    name: str
    seconds: float
    peak_mb: float

    @classmethod
    def of(cls, name: str, work: Callable[[], object]) -> Step:
        """Does it once."""
        began = time.perf_counter()
        with PeakMemory() as memory:
            work()
        return cls(name, time.perf_counter() - began, memory.bytes / 1e6)


class Search:
    """A search of all linear layers on four short texts."""

    def __init__(self, backend: LocalBackend, options: argparse.Namespace) -> None:
        self._backend, self._candidates = backend, options.candidates
        settings = Settings.of(
            {
                "recipe": "search",
                "delta": options.delta,
                "delta_settings": {"targets": "all-linear"},
                "dimension": options.dimension,
                "subspace": options.subspace,
                "template": "{text}. It was {label}",
            }
        )
        examples = tuple(Example(text, None, label) for text, label in TEXTS.items())
        split = FewShotSplit(examples, examples, (), len(examples), SEED)
        self._problem: Problem = build_problem(backend, split, settings)
        self._optimizer: Optimizer = make_optimizer(
            "cma-diagonal", options.dimension, seed=SEED, population=self._candidates
        )
        self._z = np.random.default_rng(SEED).normal(size=(self._candidates, options.dimension))

    @property
    def size(self) -> int:
        """D."""
        assert self._problem.frame is not None
        return self._problem.frame.delta.size

    def bare(self) -> None:
        """(a)."""
        prompts = self._problem.train.prompts * self._candidates
        self._backend.score(self._problem.request(prompts, None))

    def generation(self) -> None:
        """(b)."""
        assert self._problem.frame is not None
        train, z = self._problem.train, self._optimizer.ask(self._candidates)
        request = self._problem.request(train.prompts, self._problem.frame.candidates(z))
        said = self._backend.score(request).label_logprobs
        right = said[:, np.arange(len(train)), train.labels]
        self._optimizer.tell(z, -right.mean(axis=1).astype(np.float64))

    def tensors(self) -> None:
        """(c)."""
        assert self._problem.frame is not None
        for part in self._problem.frame.candidates(self._z).parts:
            for name in part.tensors:
                _ = part.tensors[name]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=MODEL, help="a local model (default: %(default)s)")
    parser.add_argument("--delta", default="selective", help="kind (default: %(default)s)")
    parser.add_argument("--subspace", default="sparse", help="kind (default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=1000, help="d (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=4, help="λ (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table is put")
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark."""
    import torch

    options, console = parse_arguments(), Console()
    backend = LocalBackend(options.model, device="cpu", dtype="fp32")
    search = Search(backend, options)
    opened = resident_memory_mb()
    steps = [
        Step.of("(a) the model alone", search.bare),
        Step.of("(b) a generation", search.generation),
        Step.of("(c) its tensors alone", search.tensors),
    ]
    rows = [
        [each.name, f"{each.seconds:.1f}", f"{each.peak_mb - opened:,.0f}",
         f"{each.peak_mb - steps[0].peak_mb:,.0f}"]
        for each in steps
    ]  # fmt: skip
    columns = ["", "seconds", "MB beyond the open model", "MB beyond (a)"]
    heading = (
        f"{options.delta}, {options.subspace}: D = {search.size:,}, d = {options.dimension}, "
        f"{options.candidates} candidates × {len(TEXTS)} texts"
    )
    how = (
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{options.model} in fp32, {opened:,.0f} MB when it is open."
    )
    publish(console, [Table(heading, columns, rows)], [how], options.results / "large_delta.md")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
