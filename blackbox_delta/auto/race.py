"""A race of views on growing parts of the training examples, so that poor ones cost little.

After each part a view is dropped when its held-out losses are clearly worse than those of the best
view of its kind on the same examples: a paired racing test in the spirit of Hoeffding races and
F-Race (Maron and Moore 1994; Birattari et al. 2002, "A racing algorithm for configuring
metaheuristics"). All heads in a comparison learn from the same part: one that has more to learn
from would win it by that alone. Kinds do not drop one another: a view that errs unlike the others
is worth more in the pool than its own loss says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from blackbox_delta.auto.asking import Asker, Seen, by_kind
from blackbox_delta.auto.comparing import ranked
from blackbox_delta.types import IntArray

#: A view drops out when it is worse than the best by this many standard errors.
CLEARLY = 2.0
#: Nats by which it must be worse besides: losses can differ by next to nothing, and always.
MATERIAL = 0.01
#: Shares of the training examples after which the race is looked at.
LEGS = (0.25, 0.5, 1.0)
#: Examples of each class before a leave-one-out estimate says anything.
LEAST_PER_CLASS = 3


def legs(labels: IntArray) -> Iterator[IntArray]:
    """Rows of growing parts, each with the same share of every class."""
    counts = np.bincount(labels)
    place = np.zeros(len(labels), dtype=np.int64)
    for k in range(len(counts)):
        place[labels == k] = np.arange(counts[k])
    reached = 0
    for share in LEGS:
        upto = np.maximum(np.ceil(share * counts).astype(np.int64), LEAST_PER_CLASS)
        rows = np.flatnonzero(place < upto[labels])
        if len(rows) > reached:
            reached = len(rows)
            yield rows


def run_race(
    asker: Asker, racers: Sequence[Seen], finished: Sequence[Seen], tell: Callable[[], None]
) -> tuple[list[Seen], list[Seen]]:
    """Lets views race against one another and against the best ones that have finished.

    A view that shows half of a leg's examples or more sits that leg out: too few are left to judge
    it by.

    Args:
        asker: Asks.
        racers: Views that were asked nothing yet, and can be paid to the end.
        finished: Those that were asked about all examples before.
        tell: Called after every leg.

    Returns:
        Those that finished, and those that dropped out.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    alive, out = list(racers), list[Seen]()
    leaders = [best for best, *_ in by_kind(ranked(finished, asker.labels))]
    for rows in legs(asker.labels):
        running = [seen for seen in alive if _is_fit(seen, rows)]
        for seen in running:
            asker.ask(seen, rows, references=True, purpose="views")
        tell()
        pace = [asker.as_of(leader, rows) for leader in leaders if _is_fit(leader, rows)]
        for best, *others in by_kind(ranked([*pace, *running], asker.labels)):
            out += [seen for seen in others if _clearly_worse(seen, best, asker.labels)]
        alive = [seen for seen in alive if seen not in out]
    return alive, [seen for seen in racers if seen in out]


def _is_fit(seen: Seen, rows: IntArray) -> bool:
    return 2 * len(np.intersect1d(rows, seen.view.rows)) > len(rows)


def _clearly_worse(seen: Seen, best: Seen, labels: IntArray) -> bool:
    difference = seen.losses(labels) - best.losses(labels)
    known = difference[np.isfinite(difference)]
    if len(known) < 2:
        return False
    error = float(known.std(ddof=1)) / np.sqrt(len(known))
    return bool(known.mean() > max(CLEARLY * error, MATERIAL))
