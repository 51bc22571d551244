"""Any optimizer of nevergrad's registry, chosen by its name there, e.g. ``TBPSA``.

Rapin & Teytaud, 2018, https://github.com/facebookresearch/nevergrad.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers.global_state import PrivateGlobalState
from blackbox_delta.optimizers.pending import Pending
from blackbox_delta.optimizers.validation import check_asked, check_settings, check_told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blackbox_delta.types import Vector

PREFIX = "nevergrad:"


class NevergradOptimizer:
    """A nevergrad optimizer behind ask and tell, starting from z = 0.

    Args:
        algorithm: A name in ``nevergrad.optimizers.registry``.
        dimension: d.
        rng: Its own generator, which also feeds whatever the algorithm draws globally.
        population: λ, told to nevergrad as the number of workers.
        sigma: σ, the standard deviation of nevergrad's mutations of an entry of z.
        budget: How many candidates the run can pay for, if known; some algorithms need it.

    Raises:
        ConfigError: A setting makes no sense, the name is unknown, or the algorithm cannot be
            used here: it takes one candidate at a time or lacks a package.
    """

    def __init__(
        self,
        algorithm: str,
        dimension: int,
        rng: np.random.Generator,
        *,
        population: int,
        sigma: float,
        budget: int | None,
    ) -> None:
        check_settings(dimension, population, sigma)
        self.name = PREFIX + algorithm
        self.population = population
        self._dimension = dimension
        self._rng = rng
        self._state = PrivateGlobalState(int(rng.integers(2**32)))
        self._pending: Pending[Any] = Pending()
        self._budget_known = budget is not None
        factory = self._find(algorithm)
        self._optimizer = self._call(lambda: self._start(factory, sigma, budget))

    def _find(self, algorithm: str) -> Any:
        with self._state.lent(keep=False):  # the first import draws, later ones do not
            import cma  # noqa: F401
            import nevergrad

        registry = nevergrad.optimizers.registry
        if algorithm not in registry:
            near = get_close_matches(algorithm, list(registry), n=5, cutoff=0.5)
            hint = f" Did you mean: {', '.join(near)}?" if near else ""
            raise ConfigError(
                f"nevergrad has no optimizer '{algorithm}'.{hint} "
                "All names: sorted(nevergrad.optimizers.registry)."
            )
        return registry[algorithm]

    def _start(self, factory: Any, sigma: float, budget: int | None) -> Any:
        import nevergrad

        parametrization = nevergrad.p.Array(init=np.zeros(self._dimension))
        parametrization.set_mutation(sigma=sigma)
        parametrization.random_state = np.random.RandomState(self._rng.bit_generator)
        # With a single worker nevergrad would accept algorithms that wait forever when a
        # second candidate is asked before the first is told; with two it refuses them.
        workers = max(2, self.population)
        if getattr(factory, "no_parallelization", False):
            raise ValueError("it takes one candidate at a time, not a population")
        return factory(parametrization=parametrization, budget=budget, num_workers=workers)

    def _call(self, action: Callable[[], Any]) -> Any:
        try:
            with self._state.lent(), _cumulative_step_size():
                return action()
        except Exception as error:
            hint = "" if self._budget_known else " Some algorithms need to know the budget."
            raise ConfigError(
                f"The optimizer '{self.name}' cannot be used: {error!r}.{hint} Choose another one."
            ) from error

    @property
    def mean(self) -> Vector:
        """(d,), nevergrad's recommendation. Reading it leaves the search as it was."""
        # nevergrad may draw for it; its RandomState also holds a spare normal beside our bits
        random_state = self._optimizer.parametrization.random_state
        drawn = random_state.get_state(legacy=False)
        try:
            with self._state.lent(keep=False):
                recommended = self._optimizer.provide_recommendation().value
        except Exception as error:
            raise ConfigError(
                f"The optimizer '{self.name}' failed to recommend a candidate: {error!r}. "
                "Choose another one."
            ) from error
        finally:
            random_state.set_state(drawn)
        return np.array(recommended, dtype=np.float64)

    def ask(self, count: int) -> Vector:
        """``count`` new candidates of shape (count, d).

        Raises:
            ConfigError: The algorithm failed or cannot give so many.
        """
        check_asked(count)
        candidates = self._call(lambda: [self._optimizer.ask() for _ in range(count)])
        z = np.array([candidate.value for candidate in candidates], dtype=np.float64)
        for row, candidate in zip(z, candidates, strict=True):
            self._pending.add(row, candidate)
        return z

    def tell(self, z: Vector, losses: Vector) -> None:
        """Losses (λ,) for (λ, d) candidates, which may be told in any split and order.

        Raises:
            ConfigError: See :func:`~blackbox_delta.optimizers.validation.check_told`; or a
                candidate was never asked or is told twice; or the algorithm failed.
        """
        check_told(z, losses, self._dimension)
        told = list(zip(self._pending.take(z), losses.tolist(), strict=True))
        self._call(lambda: [self._optimizer.tell(candidate, loss) for candidate, loss in told])


@contextmanager
def _cumulative_step_size() -> Iterator[None]:
    """Keeps pycma from two-point adaptation, which nevergrad's CMA breaks for d >= 300.

    There it draws a second generation before the first is told (whenever its own population
    is not ours), and pycma refuses that in the middle of the run.
    """
    from cma import evolution_strategy

    before = evolution_strategy.TPA_dimension
    evolution_strategy.TPA_dimension = math.inf
    try:
        yield
    finally:
        evolution_strategy.TPA_dimension = before
