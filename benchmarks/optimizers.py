"""What do the optimizers cost, and how far do they get in the few evaluations that there are?

Time: milliseconds per generation of ask, project and tell, and the shortest generation of which
that is 3 %. Quality: the noise-free loss reached on two noisy functions whose optimum a search
does not reach in so few evaluations. What counts is the loss at the optimizer's mean, which the
tuner keeps; the candidate with the luckiest draw is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import RESULTS, SECONDS, Table, machine, publish
from rich.console import Console

from blackbox_delta.errors import BlackBoxDeltaError
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.subspaces import DenseSubspace
from blackbox_delta.types import Vector

NAMES = (
    "cma",
    "cma-diagonal",
    "es",
    "eggroll",
    "random",
    "nevergrad:TBPSA",
    "nevergrad:DiagonalCMA",
    "nevergrad:NGOpt",
    "nevergrad:OnePlusOne",
    "nevergrad:DE",
    "nevergrad:PSO",
)
#: D of ten soft tokens on SmolLM2-135M.
DELTA_SIZE = 5760
#: Standard deviation of the noise; both functions are 1 at z = 0.
NOISE = 0.05
#: Directions that matter on the ellipsoid.
EFFECTIVE = 10
#: The largest share of a run's time that an optimizer should take.
SHARE = 0.03

Function = Callable[[Vector], Vector]


def sphere(dimension: int, rng: np.random.Generator) -> Function:
    """(λ, d) to (λ,): squared distance from a point as far off as a typical candidate."""
    optimum = rng.normal(size=dimension)
    return lambda z: ((z - optimum) ** 2).sum(axis=1) / (optimum @ optimum)


def ellipsoid(dimension: int, rng: np.random.Generator) -> Function:
    """(λ, d) to (λ,): a few random directions matter, with weights from 1 down to 1/100."""
    count = min(EFFECTIVE, dimension)
    directions = np.linalg.qr(rng.normal(size=(dimension, count)))[0]
    weights = 100.0 ** -(np.arange(count) / max(1, count - 1))
    # Two standard deviations of a first candidate away along each direction.
    optimum = 2.0 * rng.choice([-1.0, 1.0], count)
    scale = weights @ optimum**2
    return lambda z: (z @ directions - optimum) ** 2 @ weights / scale


FUNCTIONS = {"sphere": sphere, "ellipsoid": ellipsoid}


@dataclass
class Findings:
    """What one optimizer did on one function, over the seeds.

    Attributes:
        seconds: Of ask and tell, for every generation.
        at_mean: Evaluations to noise-free losses at the optimizer's mean.
        at_best: Evaluations to noise-free losses of the candidate with the lowest noisy loss.
    """

    seconds: list[float] = field(default_factory=list)
    at_mean: dict[int, list[float]] = field(default_factory=dict)
    at_best: dict[int, list[float]] = field(default_factory=dict)

    def search(self, name: str, function: Function, seed: int, options: argparse.Namespace) -> None:
        """One run, looked at whenever as many evaluations are spent as are to be reported."""
        optimizer = make_optimizer(
            name,
            options.dimension,
            seed=seed,
            population=options.population,
            budget_candidates=max(options.evaluations),
        )
        noise = np.random.default_rng([seed, 1])
        lowest, best, spent = np.inf, np.inf, 0
        while spent < max(options.evaluations):
            began = time.perf_counter()
            z = optimizer.ask(optimizer.population)
            asked = time.perf_counter()
            true = function(z)
            seen = true + NOISE * noise.normal(size=len(z))
            evaluated = time.perf_counter()
            optimizer.tell(z, seen)
            self.seconds.append(time.perf_counter() - evaluated + asked - began)
            if seen.min() < lowest:
                lowest, best = float(seen.min()), float(true[seen.argmin()])
            before, spent = spent, spent + len(z)
            for evaluations in options.evaluations:
                if before < evaluations <= spent:
                    at_mean = float(function(optimizer.mean[None])[0])
                    self.at_mean.setdefault(evaluations, []).append(at_mean)
                    self.at_best.setdefault(evaluations, []).append(best)


def project_seconds(options: argparse.Namespace) -> float:
    """Median time to project a generation, the same for every optimizer."""
    subspace = DenseSubspace(options.dimension, DELTA_SIZE, 0, 1.0)
    z = np.random.default_rng(0).normal(size=(options.population, options.dimension))
    origin = np.zeros(DELTA_SIZE, dtype=np.float32)
    taken = []
    for _ in range(11):
        began = time.perf_counter()
        subspace.project(z, origin)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


# ------------------------------------------------------------------------ reporting


def generation_seconds(results: Path, population: int) -> float | None:
    """Seconds of an SST-2 generation, if ``local_throughput.py`` has measured it."""
    try:
        measured = json.loads((results / SECONDS).read_text(encoding="utf-8"))
        return population * float(measured["sst2"]["c"])
    except (OSError, ValueError, KeyError):
        return None


def time_row(
    name: str, seconds: list[float], project: float, generation: float | None
) -> list[str]:
    own = float(np.mean(seconds))
    total = own + project
    share = "–" if generation is None else f"{100 * total / (total + generation):.2f}"
    return [
        name,
        f"{1000 * own:.1f}",
        f"{1000 * max(seconds):.1f}",
        f"{1000 * project:.1f}",
        f"{1000 * total:.1f}",
        share,
        f"{total * (1 - SHARE) / SHARE:.2f}",
    ]


def time_table(found: dict[tuple[str, str], Findings], options: argparse.Namespace) -> Table:
    """Milliseconds, and how fast a model would have to be for them to matter."""
    project, generation = project_seconds(options), options.generation_seconds
    if generation is None:
        generation = generation_seconds(options.results, options.population)
    model = "a generation" if generation is None else f"a generation of {generation:.2f} s"
    rows = [
        time_row(name, [s for f in FUNCTIONS for s in found[name, f].seconds], project, generation)
        for name in options.names
    ]
    columns = [
        "optimizer",
        "ask + tell",
        "slowest",
        "project",
        "all three",
        f"% of {model}",
        "3 % of one of, s",
    ]
    title = f"Milliseconds per generation at d = {options.dimension}, λ = {options.population}"
    return Table(title, columns, rows)


def quality_table(
    function: str, found: dict[tuple[str, str], Findings], options: argparse.Namespace
) -> Table:
    """Losses at the mean and at the luckiest candidate."""
    evaluations = sorted(set(options.evaluations))
    rows = [
        [
            name,
            *(_spread(found[name, function].at_mean[count]) for count in evaluations),
            *(_spread(found[name, function].at_best[count]) for count in evaluations),
        ]
        for name in options.names
    ]
    columns = [f"mean @ {count}" for count in evaluations]
    columns += [f"luckiest @ {count}" for count in evaluations]
    title = f"Noisy {function}: noise-free loss (1 at the start), {options.seeds} seeds ± deviation"
    return Table(title, ["optimizer", *columns], rows)


def _spread(losses: list[float]) -> str:
    return f"{np.mean(losses):.3f} ± {np.std(losses):.3f}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--names", nargs="+", default=NAMES, help="optimizers to compare")
    parser.add_argument("--dimension", type=int, default=500, help="d (default: %(default)s)")
    parser.add_argument("--population", type=int, default=20, help="λ (default: %(default)s)")
    parser.add_argument(
        "--evaluations", type=int, nargs="+", default=[300, 1000], help="when to look at the loss"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs each (default: %(default)s)")
    parser.add_argument(
        "--generation-seconds",
        type=float,
        help="what the model takes for a generation; by default as local_throughput.py found",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables are put")
    options = parser.parse_args()
    if min(options.seeds, *options.evaluations) < 1:
        parser.error("--seeds and --evaluations are at least 1")
    if not 1 <= options.dimension <= DELTA_SIZE:
        parser.error(f"--dimension is between 1 and {DELTA_SIZE}")
    return options


def main() -> None:
    """Runs the benchmark."""
    options, console = parse_arguments(), Console()
    found: dict[tuple[str, str], Findings] = {}
    for name in options.names:
        for title, make in FUNCTIONS.items():
            console.print(f"{name} on {title}")
            findings = found[name, title] = Findings()
            for seed in range(options.seeds):
                # A stream of its own: the optimizer must not draw the optimum itself.
                function = make(options.dimension, np.random.default_rng([seed, 3]))
                findings.search(name, function, seed, options)
    tables = [time_table(found, options)]
    tables += [quality_table(function, found, options) for function in FUNCTIONS]
    notes = [
        f"{machine()}. The projection is to D = {DELTA_SIZE}.",
        f"Noise of standard deviation {NOISE}; {EFFECTIVE} directions matter on the ellipsoid.",
    ]
    publish(console, tables, notes, options.results / "optimizers.md")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
