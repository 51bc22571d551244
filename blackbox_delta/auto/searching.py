"""The delta through the head, found on half of the examples.

With few examples a search overfits its own leave-one-out estimate long before it is short of
queries. So there are two searches, each of which asks about one half of the training examples
only, under heads that learn from that half: what it found is judged, and weighed against the other
views, on the other half. No label of the judging half may have a part in the search, not even
through the heads: a candidate under which half A is well classified by what a head learned from
half B is one under which the two agree, so that B looks well predicted too. The distribution's
mean is taken, never its luckiest sample, and both searches' means answer together with the other
views.

The search starts from the best view that a delta can move, z = 0; how far its first steps go is
probed beforehand, unless the user says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.race import LEAST_PER_CLASS
from blackbox_delta.auto.views import View
from blackbox_delta.budget import Need
from blackbox_delta.optimizers import make_optimizer, try_out
from blackbox_delta.probing import PROBED, PROBES, SMALLEST, does_no_harm, probe_directions
from blackbox_delta.problem import Frame
from blackbox_delta.types import IntArray, Optimizer, Vector

#: λ of each search: noisy losses in many dimensions reward many small generations.
POPULATION = 10
#: Generations between two looks at the means.
GENERATIONS = 2


def halves(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of two halves with the same share of every class."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[::2]), np.sort(order[1::2])


def can_be_halved(labels: IntArray) -> bool:
    """Whether half of the examples are enough to learn from: three a class on average."""
    return len(labels) // 2 >= LEAST_PER_CLASS * len(np.unique(labels))


def check_optimizer(name: str, frame: Frame) -> None:
    """Checks that the searches' optimizers can be made and asked, before anything is spent.

    Raises:
        ConfigError: They cannot.
    """
    try_out(_make_optimizer(name, frame, 0, 1.0))


def _make_optimizer(name: str, frame: Frame, seed: int, sigma: float) -> Optimizer:
    return make_optimizer(
        name,
        frame.subspace.dimension,
        seed=seed,
        population=POPULATION,
        sigma=sigma,
        parts=frame.subspace.parts,
    )


@dataclass(frozen=True)
class _Search:
    """One of the two searches.

    Attributes:
        optimizer: Its own.
        sees: Rows whose losses it is told.
    """

    optimizer: Optimizer
    sees: IntArray


class DeltaSearch:
    """Searches a delta around one view.

    Args:
        asker: Asks.
        start: The view to start from, asked about all examples already.
        frame: Its frame.
        name: The optimizer's.
        seed: Determines the searches.
        probing: Whether the first steps are probed; else they are the frame's own.
    """

    def __init__(
        self, asker: Asker, start: Seen, frame: Frame, name: str, seed: int, *, probing: bool
    ) -> None:
        self._asker = asker
        self._start = start
        self._frame = frame
        self._name, self._seed, self._probing = name, seed, probing
        self._searches: tuple[_Search, ...] = ()
        self._round = 0

    def need(self) -> tuple[Need, ...]:
        """What the next look takes at most, the generations before it and the probes included."""
        asker, view = self._asker, self._moved(np.zeros(self._frame.subspace.dimension))
        once = asker.need(view, view.rows, references=False)
        generations = once.times(POPULATION * GENERATIONS, "generations of two searches")
        with_anchors = asker.need(view, view.rows, references=True)
        looks = with_anchors.times(2, "a look at their means")
        if self._searches or not self._probing:
            return generations, looks
        return once.times(len(PROBED) * PROBES, "probing the steps"), generations, looks

    def looks(self) -> Iterator[list[Seen]]:
        """Goes on to the next look whenever it is asked for one: the two searches' means.

        Raises:
            BackendError: No sound reply could be had.
            SpentError: Replies were lost, and the budget ran out over it.
        """
        self._searches = tuple(self._begin())
        while True:
            for _ in range(GENERATIONS):
                for search in self._searches:
                    self._one_generation(search)
            self._round += 1
            yield [self._look(number) for number in range(len(self._searches))]

    # ------------------------------------------------------------------ parts

    def _begin(self) -> Iterator[_Search]:
        for number, rows in enumerate(halves(self._asker.labels)):
            seed = 2 * self._seed + number
            optimizer = _make_optimizer(self._name, self._frame, seed, self._step(rows))
            yield _Search(optimizer, rows)

    def _step(self, rows: IntArray) -> float:
        """The largest probed step that does not clearly do harm to these examples."""
        if not self._probing:
            return 1.0
        directions = probe_directions(self._frame.subspace.dimension, self._seed)
        before = self._asker.as_of(self._start, rows).losses(self._asker.labels)[rows]
        for sigma in PROBED:
            if does_no_harm(self._losses(sigma * directions, rows).mean(axis=0) - before):
                return sigma
        return SMALLEST

    def _one_generation(self, search: _Search) -> None:
        z = search.optimizer.ask(POPULATION)
        search.optimizer.tell(z, self._losses(z, search.sees).mean(axis=1))

    def _losses(self, z: Vector, rows: IntArray) -> Vector:
        """(λ, m) losses of m examples, held out among these; the anchors are those of the start."""
        view, delta = self._moved(z[0]), self._frame.candidates(z)
        return self._asker.losses_of(view, rows, delta, self._start.reference)

    def _look(self, number: int) -> Seen:
        """A search's mean, known on the examples alone that the search was not told of."""
        search = self._searches[number]
        view = self._moved(self._frame.subspace.snap(search.optimizer.mean))
        name = f"{self._start.view.name}, tuned {self._round}{'ab'[number]}"
        seen = self._asker.fresh(replace(view, name=name))
        self._asker.ask(seen, view.rows, references=True, purpose="search")
        seen.held_out[search.sees] = np.nan
        return seen

    def _moved(self, z: Vector) -> View:
        return replace(self._start.view, frame=self._frame, z=z)
