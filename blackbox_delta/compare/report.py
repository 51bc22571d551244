"""From findings to figures: a line for each cell, and summaries over seeds and over tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from blackbox_delta.compare.cells import Finding
from blackbox_delta.compare.contract import Measured
from blackbox_delta.compare.methods import BASELINE
from blackbox_delta.tasks import Metrics, Verdict, evaluate, paired_verdict, verdict_over_seeds
from blackbox_delta.types import IntArray, Json

#: The columns of :func:`lines`.
COLUMNS = (
    "task",
    "seed",
    "method",
    "shots",
    "dtype",
    "accuracy",
    "macro_f1",
    "train_accuracy",
    "gap",
    "difference",
    "low",
    "high",
    "p_value",
    "calls",
    "queries",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "artifact_bytes",
    "delta_size",
    "dimension",
    "test_queries",
    "test_n",
    "refusal",
)
_VERDICT = ("difference", "low", "high", "p_value")
_COSTS = (
    "calls",
    "queries",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "artifact_bytes",
    "test_queries",
)


class Scored(NamedTuple):
    """A finding with measurements, and the scores that follow from them."""

    finding: Finding
    measured: Measured
    test: Metrics
    train: Metrics

    @property
    def gap(self) -> float:
        """Training accuracy less test accuracy."""
        return self.train.accuracy - self.test.accuracy

    @property
    def costs(self) -> Json:
        """What it took, by column."""
        known = {**vars(self.measured), "peak_memory_bytes": self.finding.peak_bytes}
        return {name: known[name] for name in _COSTS}

    @property
    def right(self) -> IntArray:
        """(n,) 1 for each test example that is answered rightly, else 0."""
        answers = self.measured.log_proba.argmax(axis=1)
        return np.asarray(answers == self.finding.truth, dtype=np.int64)


class Spread(NamedTuple):
    """A mean over seeds and the sample's standard deviation; ``None`` for a single seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), deviation)


@dataclass(frozen=True)
class Summary:
    """A method on one task or on all of them, over the seeds.

    Attributes:
        task: The task's name; ``None`` for the mean over all tasks.
        method: As it was asked for.
        seeds: On which it finished; for all tasks, those on which it finished all of them.
        accuracy: On the test examples.
        macro_f1: Likewise.
        gap: Training accuracy less test accuracy, mean.
        costs: Means of calls, queries, tokens, seconds, peak_memory_bytes, artifact_bytes and
            test_queries.
        verdict: Against the baseline on the same test examples, those of all tasks taken together;
            ``None`` for the baseline itself and where it did not finish.
    """

    task: str | None
    method: str
    seeds: tuple[int, ...]
    accuracy: Spread
    macro_f1: Spread
    gap: float
    costs: Json
    verdict: Verdict | None


class Report:
    """The figures of a comparison.

    Args:
        findings: Of every cell.
        dtype: The precision in which the model is open; empty where nobody says.

    Attributes:
        findings: As given.
        dtype: As given.
        scored: Those with measurements, by task, method and seed.
    """

    def __init__(self, findings: Iterable[Finding], dtype: str = "") -> None:
        self.findings = tuple(findings)
        self.dtype = dtype
        self.scored = {
            (each.task, each.method, each.seed): _score(each, each.measured)
            for each in self.findings
            if each.measured is not None
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the findings."""
        return tuple(dict.fromkeys(each.task for each in self.findings))

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the findings."""
        return tuple(dict.fromkeys(each.method for each in self.findings))

    @property
    def seeds(self) -> tuple[int, ...]:
        """In the order of the findings."""
        return tuple(dict.fromkeys(each.seed for each in self.findings))

    @property
    def refusals(self) -> dict[str, list[str]]:
        """Each reason with the cells that it stands for."""
        reasons: dict[str, list[str]] = {}
        for each in self.findings:
            if each.refusal is not None:
                where = f"{each.method} on {each.task}, seed {each.seed}"
                reasons.setdefault(each.refusal, []).append(where)
        return reasons

    @property
    def dtypes(self) -> dict[str, int]:
        """How many cells were measured in each precision, where the model's is known."""
        counted = Counter(scored.finding.dtype for scored in self.scored.values())
        return {dtype: count for dtype, count in counted.items() if dtype}

    def lines(self) -> list[Json]:
        """One unrounded line a cell, by :data:`COLUMNS`; costs of a refused cell are ``None``."""
        return [self._line(finding) for finding in self.findings]

    def summaries(self, task: str | None) -> list[Summary]:
        """Every method that finished on a task, or on all of them where ``task`` is ``None``."""
        tasks = self.tasks if task is None else (task,)
        found = (self._summary(task, tasks, method) for method in self.methods)
        return [summary for summary in found if summary is not None]

    def _line(self, finding: Finding) -> Json:
        named = ("task", "seed", "method", "shots", "dtype")
        key = {name: getattr(finding, name) for name in named}
        line = dict.fromkeys(COLUMNS) | key | {"refusal": finding.refusal}
        scored = self.scored.get((finding.task, finding.method, finding.seed))
        if scored is None:
            return line
        line |= {
            "accuracy": scored.test.accuracy,
            "macro_f1": scored.test.macro_f1,
            "train_accuracy": scored.train.accuracy,
            "gap": scored.gap,
            "test_n": scored.test.n,
            **scored.costs,
            **_searched(scored.measured),
        }
        base = self.scored.get((finding.task, BASELINE, finding.seed))
        if base is not None and finding.method != BASELINE:
            verdict = paired_verdict(np.ones_like(base.right), base.right, scored.right)
            line |= {name: getattr(verdict, name) for name in _VERDICT}
        return line

    def _summary(self, task: str | None, tasks: Sequence[str], method: str) -> Summary | None:
        seeds = self._finished(tasks, method)
        if not seeds:
            return None
        cells = [[self.scored[name, method, seed] for name in tasks] for seed in seeds]

        def over_seeds(value: Callable[[Scored], float]) -> list[float]:
            return [float(np.mean([value(cell) for cell in row])) for row in cells]

        return Summary(
            task=task,
            method=method,
            seeds=seeds,
            accuracy=Spread.of(over_seeds(lambda cell: cell.test.accuracy)),
            macro_f1=Spread.of(over_seeds(lambda cell: cell.test.macro_f1)),
            gap=float(np.mean(over_seeds(lambda cell: cell.gap))),
            costs={name: float(np.mean(over_seeds(_cost(name)))) for name in _COSTS},
            verdict=self._verdict(tasks, method, seeds),
        )

    def _finished(self, tasks: Sequence[str], method: str) -> tuple[int, ...]:
        return tuple(
            seed
            for seed in self.seeds
            if all((task, method, seed) in self.scored for task in tasks)
        )

    def _verdict(self, tasks: Sequence[str], method: str, seeds: tuple[int, ...]) -> Verdict | None:
        common = [seed for seed in seeds if seed in self._finished(tasks, BASELINE)]
        if method == BASELINE or not common:
            return None
        base, tuned = (
            [
                np.concatenate([self.scored[task, name, seed].right for task in tasks])
                for seed in common
            ]
            for name in (BASELINE, method)
        )
        return verdict_over_seeds(np.ones_like(base[0]), base, tuned)


def _cost(name: str) -> Callable[[Scored], float]:
    return lambda cell: float(cell.costs[name])


def _searched(measured: Measured) -> Json:
    """D and d of the delta that was searched, if one was."""
    delta = measured.details.get("delta") or {}
    return {"delta_size": delta.get("size"), "dimension": delta.get("dimension")}


def _score(finding: Finding, measured: Measured) -> Scored:
    test = evaluate(finding.truth, measured.log_proba, finding.labels)
    train = evaluate(finding.train_truth, measured.train_log_proba, finding.labels)
    return Scored(finding, measured, test, train)
