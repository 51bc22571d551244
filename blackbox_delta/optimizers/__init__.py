"""Ask/tell optimizers over z in R^d, one file a family; all minimise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.adaptive_allocation import AdaptiveAllocation
from blackbox_delta.optimizers.cma_es import CMAES
from blackbox_delta.optimizers.divide_and_conquer import DivideAndConquer
from blackbox_delta.optimizers.eggroll import EggRoll
from blackbox_delta.optimizers.evolution_strategy import EvolutionStrategy
from blackbox_delta.optimizers.from_nevergrad import PREFIX as NEVERGRAD_PREFIX
from blackbox_delta.optimizers.from_nevergrad import NevergradOptimizer
from blackbox_delta.optimizers.random_search import RandomSearch
from blackbox_delta.optimizers.spsa import SPSA
from blackbox_delta.optimizers.two_stage import TwoStage

if TYPE_CHECKING:
    from blackbox_delta.types import Optimizer

OPTIMIZERS = (
    "cma",
    "cma-diagonal",
    "es",
    "eggroll",
    "spsa",
    "divide-and-conquer",
    "adaptive-allocation",
    "two-stage",
    "random",
)
"""The names that :func:`make_optimizer` knows, besides ``nevergrad:<name in its registry>``."""

_OF_PARTS = {each.name: each for each in (DivideAndConquer, AdaptiveAllocation)}
OF_PARTS = tuple(_OF_PARTS)
"""Those that need the parts of z."""

__all__ = [
    "CMAES",
    "OF_PARTS",
    "OPTIMIZERS",
    "SPSA",
    "AdaptiveAllocation",
    "DivideAndConquer",
    "EggRoll",
    "EvolutionStrategy",
    "NevergradOptimizer",
    "RandomSearch",
    "TwoStage",
    "check_name",
    "make_optimizer",
    "try_out",
]

_SIMPLE = {each.name: each for each in (RandomSearch, EvolutionStrategy, EggRoll, SPSA)}


def try_out(optimizer: Optimizer) -> None:
    """Asks an optimizer for a population and tells it losses; it is of no use afterwards.

    Some of nevergrad's can be made and only then turn out to need more than there is.

    Raises:
        ConfigError: It does not give any, or take them.
    """
    z = optimizer.ask(optimizer.population)
    optimizer.tell(z, np.arange(len(z), dtype=np.float64))


def make_optimizer(
    name: str,
    dimension: int,
    *,
    seed: int,
    population: int = 20,
    sigma: float = 1.0,
    budget_candidates: int | None = None,
    parts: Sequence[int] = (),
) -> Optimizer:
    """The optimizer called ``name``, started at z = 0.

    Args:
        name: One of :data:`OPTIMIZERS`, or ``nevergrad:`` and a name in nevergrad's registry.
        dimension: d.
        seed: Determines everything it draws.
        population: λ; 20 as in Black-Box Tuning (Sun et al., 2022, arXiv 2201.03514).
        sigma: σ, the initial standard deviation of an entry of z.
        budget_candidates: How many candidates this search can pay for, if known.
        parts: Lengths of the parts of z that the subspace keeps apart; none given is one part.

    Raises:
        ConfigError: The name is unknown or a setting makes no sense for it.
    """
    parts = tuple(parts) or (dimension,)
    if sum(parts) != dimension:
        raise ConfigError(f"Parts of {sum(parts)} numbers are not those of {dimension} numbers.")
    # Not PCG64(seed) itself: a subspace of the same seed is drawn from that stream.
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    if name in ("cma", "cma-diagonal"):
        diagonal = name == "cma-diagonal"
        return CMAES(dimension, rng, population=population, sigma=sigma, diagonal=diagonal)
    if name in _OF_PARTS:
        return _OF_PARTS[name](parts, rng, population=population, sigma=sigma)
    if name == TwoStage.name:
        return TwoStage(
            dimension, rng, population=population, sigma=sigma, budget=budget_candidates
        )
    if name in _SIMPLE:
        return _SIMPLE[name](dimension, rng, population=population, sigma=sigma)
    if name.startswith(NEVERGRAD_PREFIX):
        return NevergradOptimizer(
            name.removeprefix(NEVERGRAD_PREFIX),
            dimension,
            rng,
            population=population,
            sigma=sigma,
            budget=budget_candidates,
        )
    raise _unknown(name)


def check_name(name: str) -> None:
    """Checks that there is an optimizer of that name; nevergrad's are known when they are made.

    Raises:
        ConfigError: There is none.
    """
    if name not in OPTIMIZERS and not name.startswith(NEVERGRAD_PREFIX):
        raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"There is no optimizer '{name}'. Choose one of {', '.join(OPTIMIZERS)}, "
        f"or {NEVERGRAD_PREFIX}NAME with a name in nevergrad's registry."
    )
