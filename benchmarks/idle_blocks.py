"""What do optimizers reach where most blocks of z are best left alone?

Losses of 480 numbers in 24 blocks, of which six have an optimum away from z = 0. The others do
nothing, or do harm when they are moved: as much for each number as an important one does good, or
four times as much. All losses are 1 at z = 0; what is shown is the noise-free loss at the
optimizer's mean, which the tuner keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import RESULTS, Table, machine, publish
from numpy.typing import NDArray
from rich.console import Console

from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.optimizers.adaptive_allocation import AdaptiveAllocation
from blackbox_delta.types import Optimizer, Vector

BLOCKS, LENGTH, IMPORTANT = 24, 20, 6
PARTS = (LENGTH,) * BLOCKS
POPULATION, SIGMA = 20, 1.0
NOISE = 0.05
ADAPTIVE = AdaptiveAllocation.name

Loss = Callable[[Vector], Vector]


def important(rng: np.random.Generator) -> NDArray[np.bool_]:
    """(d,), which numbers are in important blocks."""
    blocks = np.zeros(BLOCKS, dtype=bool)
    blocks[rng.permutation(BLOCKS)[:IMPORTANT]] = True
    return np.repeat(blocks, LENGTH)


def loss(harm: float, matters: NDArray[np.bool_], rng: np.random.Generator) -> Loss:
    """(λ, d) to (λ,): important blocks want to be elsewhere, moving the others does harm."""
    optimum = np.where(matters, rng.normal(size=len(matters)), 0.0)
    weights = np.where(matters, 1.0, harm) / (optimum @ optimum)
    return lambda z: np.asarray((z - optimum) ** 2 @ weights)


def _allocation(seed: int, **told: float | None) -> Optimizer:
    rng = np.random.default_rng([seed, 2])
    return AdaptiveAllocation(PARTS, rng, population=POPULATION, sigma=SIGMA, **told)  # type: ignore[arg-type]


def _named(name: str) -> Callable[[int, int], Optimizer]:
    def make(seed: int, candidates: int) -> Optimizer:
        return make_optimizer(
            name,
            sum(PARTS),
            seed=seed,
            population=POPULATION,
            sigma=SIGMA,
            budget_candidates=candidates,
            parts=PARTS,
        )

    return make


#: By what the table calls them: from a seed and the candidates that the run can pay for.
OPTIMIZERS: dict[str, Callable[[int, int], Optimizer]] = {
    "cma-diagonal": _named("cma-diagonal"),
    "its own search over all": lambda seed, _: _allocation(seed, active=1.0, interval=None),
    "half of each block, fixed": lambda seed, _: _allocation(seed, interval=None),
    ADAPTIVE: _named(ADAPTIVE),
    "two-stage": _named("two-stage"),
}
#: Harm, and standard deviation of the noise.
LOSSES = {
    "the other blocks do not matter": (0.0, 0.0),
    "the same, noise of 5 %": (0.0, NOISE),
    "moving the other blocks does harm": (1.0, 0.0),
    "the same harm, noise of 5 %": (1.0, NOISE),
    "four times the harm": (4.0, 0.0),
}


def search(
    name: str, harm: float, noise: float, seed: int, generations: int
) -> tuple[float, float]:
    """What of the loss at z = 0 is left, and how much of the search was in important blocks.

    The second is the share of the active numbers, over all generations.
    """
    drawn, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    matters = important(drawn)
    true = loss(harm, matters, drawn)
    optimizer = OPTIMIZERS[name](seed, generations * POPULATION)
    shares = []
    for _ in range(generations):
        everywhere = np.arange(sum(PARTS))
        shares.append(matters[getattr(optimizer, "active", everywhere)].mean())
        z = optimizer.ask(POPULATION)
        optimizer.tell(z, true(z) + noise * rng.normal(size=len(z)))
    return float(true(optimizer.mean[None])[0]), float(np.mean(shares))


def main() -> None:
    """Runs the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    rows = []
    for what, told in LOSSES.items():
        found = [
            [search(name, *told, seed, options.generations) for seed in range(options.seeds)]
            for name in OPTIMIZERS
        ]
        ends = [[end for end, _ in each] for each in found]
        own = np.mean([share for _, share in found[list(OPTIMIZERS).index(ADAPTIVE)]])
        cells = [f"{np.mean(each):.2f} ± {np.std(each):.2f}" for each in ends]
        rows.append([what, *cells, f"{100 * own:.0f} %"])
    title = (
        f"What is left of the loss, {options.generations} generations of {POPULATION}, "
        f"{options.seeds} seeds ± deviation"
    )
    table = Table(title, ["loss", *OPTIMIZERS, "of its search"], rows)
    share = IMPORTANT / BLOCKS
    note = (
        f"{machine()}. The last column: how many of the numbers that {ADAPTIVE} searched were in "
        f"important blocks, which are {100 * share:.0f} % of all."
    )
    publish(Console(), [table], [note], options.results / "idle_blocks.md")


if __name__ == "__main__":
    main()
