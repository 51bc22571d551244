"""The race of ``local_throughput.py``: contenders on one shape, their check and their turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from common import peak_memory_mb, resident_memory_mb
from contenders import BEHIND, FRONT, NaiveLoop, Package, PureForward, Timing, plain_logprobs
from workloads import Workload

from blackbox_delta.backends.local import LocalBackend, loading

#: Largest difference in log-probability between contenders that do the same work.
TOLERANCE = 1e-2


class Race:
    """All contenders on one shape, sharing one copy of the weights."""

    def __init__(self, loaded: loading.LoadedModel, workload: Workload) -> None:
        self._loaded = loaded
        self._workload = workload
        with self.backend() as backend:
            self.front = Package(backend.embedding_table, workload, FRONT)
            self.behind = Package(backend.embedding_table, workload, BEHIND)

    @contextmanager
    def backend(self) -> Iterator[LocalBackend]:
        """The package's backend, with nothing computed yet; the model is as before afterwards."""
        loaded = self._loaded
        backend = LocalBackend.from_objects(loaded.model, loaded.tokenizer, name=loaded.name)
        try:
            yield backend
        finally:
            backend.close()

    def naive(self, measured: int) -> NaiveLoop:
        """Contender (a)."""
        return NaiveLoop(self._loaded.model, self._loaded.tokenizer, self._workload, measured)

    def memory(self, generations: Sequence[int]) -> dict[str, float]:
        """MB held after so many generations of (c)."""
        held = {}
        with self.backend() as backend:
            for generation in range(1, max(generations) + 1):
                self.behind.generation(backend)
                if generation in generations:
                    held[f"resident after {generation}"] = resident_memory_mb()
                    held[f"peak after {generation}"] = peak_memory_mb()
        return held

    def check(self, naive: NaiveLoop) -> str:
        """How far log-probabilities differ: (a) from (b), and (c) from plain evaluation.

        Raises:
            SystemExit: One is above the tolerance: the contenders do not do the same work.
        """
        front, behind = self.front.draw(2), self.behind.draw(2)
        (front_soft,), (behind_soft,) = front.tensors.values(), behind.tensors.values()
        work, few = self._workload, min(4, len(self._workload.texts))
        expected_front = np.stack([naive.label_logprobs(soft).numpy() for soft in front_soft])
        expected_behind = [
            [self._plain(text, soft) for text in work.texts[:few]] for soft in behind_soft
        ]
        with self.backend() as backend:
            found_front = self.front.score(backend, front).label_logprobs
            found_behind = self.behind.score(backend, behind).label_logprobs[:, :few]
        front_gap = float(np.abs(found_front - expected_front).max())
        behind_gap = float(np.abs(found_behind - np.array(expected_behind)).max())
        said = (
            f"log-probabilities of (a) and (b) differ by {front_gap:.1g}, "
            f"of (c) and plain evaluation by {behind_gap:.1g}"
        )
        if not (front_gap <= TOLERANCE and behind_gap <= TOLERANCE):
            raise SystemExit(f"not the same work: {said}")
        return said

    def _plain(self, text: str, soft: Any) -> Any:
        loaded = self._loaded
        return plain_logprobs(loaded.model, loaded.tokenizer, text, soft, self._workload.words)

    def run(
        self, naive: NaiveLoop, repeats: int, say: Callable[[str], None]
    ) -> tuple[dict[str, list[Timing]], int]:
        """Takes turns, so that whatever disturbs the machine disturbs everyone.

        Returns:
            Timings of each way, and the chunk size of (d).
        """
        times: dict[str, list[Timing]] = {way: [] for way in ("a", "b", "c cold", "c", "d")}
        pure: PureForward | None = None
        rows = self._workload.candidates * len(self._workload.texts)
        for repeat in range(repeats):
            times["a"].append(naive.generation())
            with self.backend() as backend:
                times["b"].append(self.front.generation(backend))
                times["c cold"].append(self.behind.generation(backend))
                times["c"].append(self.behind.generation(backend))
            pure = pure or PureForward(self._loaded.model, rows, times["c"][0].tokens // rows)
            times["d"].append(pure.generation())
            took = ", ".join(f"{way} {taken[-1].seconds:.2f} s" for way, taken in times.items())
            say(f"  repetition {repeat + 1} of {repeats}: {took}")
        return times, pure.chunk if pure else 0
