"""What the methods that search with forward passes share: progress, and what they report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blackbox_delta.compare.asking import PIECE, saved_bytes
from blackbox_delta.compare.contract import Measured, Point, Step, Trial
from blackbox_delta.history import read_history
from blackbox_delta.metered import Metered
from blackbox_delta.runs import HISTORY_NAME
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Observer, Progress
from blackbox_delta.types import Example, Json, Vector

#: A search's run folder, within the folder of its trial.
RUN = "run"


def observer(step: Step) -> Observer:
    """An observer of a search that tells ``step``."""

    def observe(progress: Progress) -> None:
        # A call of views may be a part of one.
        where = "dev" if progress.what == "generations" else "held-out"
        note = f"{progress.budget.calls:,.0f} calls, {where} accuracy {progress.dev_accuracy:.3f}"
        step(progress.budget.fraction_spent, note)

    return observe


def measured(
    trial: Trial, model: TunedModel, meter: Metered, spent: Json, details: Json, step: Step
) -> Measured:
    """Answers the training and the test examples.

    Args:
        trial: What was tuned on.
        model: The tuned model, which asks ``meter``.
        meter: Counts what an answer takes, however many views of an example that are.
        spent: On tuning: ``calls``, ``queries``, ``tokens`` and the seconds of its parts. The
            clock of a resumed run misses what came before; the parts do not.
        details: For the cell.
        step: Told how far it is.
    """
    train = model.log_proba(trial.split.train)
    before = meter.usage.queries
    test = _answers(model, trial.split.test, step)
    return Measured(
        log_proba=test,
        train_log_proba=train,
        calls=spent["calls"],
        queries=spent["queries"],
        tokens=spent["tokens"],
        seconds=sum(spent[f"{part}_seconds"] for part in ("backend", "optimizer", "head")),
        test_queries=(meter.usage.queries - before) / len(trial.split.test),
        artifact_bytes=saved_bytes(model.save),
        curve=read_curve(trial.folder / RUN / HISTORY_NAME),
        details=details,
    )


def _answers(model: TunedModel, examples: tuple[Example, ...], step: Step) -> Vector:
    """(n, c), asked in pieces so that a display can move."""
    pieces = []
    for start in range(0, len(examples), PIECE):
        part = examples[start : start + PIECE]
        pieces.append(model.log_proba(part))
        done = start + len(part)
        step(done / len(examples), f"test: {done:,} of {len(examples):,} examples")
    return np.concatenate(pieces)


def read_curve(path: Path) -> tuple[Point, ...]:
    """A loss against calls, from a run's history; empty without one.

    A search's is the lowest training loss so far, a pool of views' the held-out loss of the pool.
    """
    if not path.exists():
        return ()
    return tuple(
        Point(record["calls"], record[name])
        for record in read_history(path)
        for name in ("lowest_loss_so_far", "held_out_loss")
        if "calls" in record and name in record
    )
