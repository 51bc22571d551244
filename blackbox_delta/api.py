"""The library call behind every face: data in, tuned model out."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from blackbox_delta.artifact import Artifact
from blackbox_delta.backends import open_backend
from blackbox_delta.budget import Budget
from blackbox_delta.errors import ConfigError
from blackbox_delta.journal import JournaledBackend
from blackbox_delta.problem import build_problem
from blackbox_delta.report import build_result, score_test
from blackbox_delta.runs import open_run
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns, FewShotSplit, TaskData, draw_split, load_task
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Observer, Tuner
from blackbox_delta.types import Backend, Json


def tune(
    model: str | Backend,
    data: str | Path | TaskData | FewShotSplit,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    columns: Columns | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> TunedModel:
    """Tunes a frozen model on a few labelled examples by forward passes alone.

    Args:
        model: A model's name (see :func:`blackbox_delta.backends.open_backend`) or an open
            backend.
        data: A folder, a file, ``hub:NAME``, :func:`blackbox_delta.tasks.task_from_lists`'s
            result, or a split drawn already, for which ``shots`` and ``max_test`` say nothing.
        out: Run folder to be written; without one nothing is kept on disk.
        resume: Go on with the run in ``out``.
        columns: Names of the columns in the data.
        observer: Called after every generation and while the test part is scored, for progress
            displays.
        **settings: See :class:`blackbox_delta.settings.Settings`: ``shots``, ``seed``,
            ``budget``, ``template``, ….

    Returns:
        The tuned model, its ``result`` filled in.

    Raises:
        BlackBoxDeltaError: Whatever is wrong, before anything is spent; see
            :mod:`blackbox_delta.errors`.
    """
    chosen = Settings.of(settings)
    budget = Budget.parse(chosen.budget)
    if resume and out is None:
        raise ConfigError("resume needs a run folder: give out=FOLDER")
    if isinstance(data, FewShotSplit):
        split, chosen = data, chosen.model_copy(update={"shots": data.shots})
    else:
        task = load_task(data, columns)
        split = draw_split(task, chosen.shots, chosen.seed, chosen.max_test)
    backend = open_backend(model) if isinstance(model, str) else model
    problem = build_problem(backend, split, chosen)
    tuner = Tuner(backend, problem, chosen, budget, observer)
    description = describe(backend, split, chosen)
    folder = nullcontext() if out is None else open_run(Path(out), description, resume=resume)
    with folder as run:
        began = time.perf_counter()
        asked = JournaledBackend(backend, run.journal) if run else backend
        outcome = tuner.run(asked, run.history if run else None)
        test = score_test(asked, outcome, tuner.tell_tested)
        result = build_result(backend, chosen, budget, outcome, test)
        result["seconds"] = time.perf_counter() - began
        head, z, frame = outcome.chosen.head, outcome.chosen.z, outcome.problem.frame
        artifact = Artifact.of(backend, problem.reader, head, frame, z)
        if run:
            run.finish(artifact, result)
    return TunedModel(artifact, backend, result)


def describe(backend: Backend, split: FewShotSplit, settings: Settings) -> Json:
    """Everything that determines a run; two runs with the same description end the same."""
    return {
        "settings": settings.model_dump(),
        "model": backend.name,
        "identity": dict(backend.identity),
        "data": split.digest(),
    }
