"""The same tuning over several seeds: other training examples each time, one test sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blackbox_delta.api import draw_for, tune
from blackbox_delta.backends import opened
from blackbox_delta.earlier import read_earlier
from blackbox_delta.errors import ConfigError, RunError
from blackbox_delta.problem import build_problem
from blackbox_delta.report import UNMEASURED, told
from blackbox_delta.runs import RESULT_NAME, RUN_NAME, is_there, write_record
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns, FewShotSplit, TaskData, load_task, verdict_over_seeds
from blackbox_delta.tasks.splits import whole
from blackbox_delta.tasks.tables import is_list
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Observer
from blackbox_delta.types import Backend, Example, IntArray, Json

_SCORES = tuple(
    f"{who}_{score}"
    for who in ("untuned", "baseline", "test")
    for score in ("accuracy", "macro_f1")
)
_BILLED = ("queries", "lost_queries", "tokens", "output_tokens", "cost_usd")
_COSTS = ("calls", *_BILLED, *(f"test_{name}" for name in _BILLED), "seconds")


@dataclass(frozen=True)
class SeedsResult:
    """What tuning over several seeds gave.

    Attributes:
        models: One tuned model a seed, in the seeds' order, each with its own ``result``.
        recommended: The one to answer with.
        result: The content of ``result.json``; see :func:`tune_over_seeds`.
    """

    models: tuple[TunedModel, ...]
    recommended: TunedModel
    result: Json


def tune_over_seeds(
    model: str | Backend,
    data: str | Path | TaskData,
    seeds: int,
    *,
    columns: Columns | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    unlabeled: str | Path | Sequence[str | Example] | None = None,
    observers: Callable[[int], Observer] | None = None,
    **settings: Any,
) -> SeedsResult:
    """Tunes once for each of the seeds ``seed``, ``seed + 1``, … and sums up.

    Each seed may spend the whole ``budget``. Training and development examples are drawn anew for
    every seed; the test sample is that of
    the first, so that the seeds can be compared. Each run is what
    :func:`blackbox_delta.api.tune` makes of such a split; the models are not combined.

    The result holds ``runs`` (scores and verdict of each seed, with its ``estimate`` on the
    training examples where the recipe makes one), ``mean`` and ``deviation`` of the scores (the
    deviation with S - 1; ``None`` for one seed), the total of every cost, with that of the test
    part apart, ``verdict`` and ``comparison`` over all seeds, and ``recommended`` (which seed's
    model to use, and why; test accuracy has no say in it).

    Args:
        model: A model's name or an open backend.
        data: A folder, a file, ``hub:NAME`` or a loaded task.
        seeds: S, at least 1.
        columns: Names of the columns in the data, and of those in a file of unlabelled texts.
        out: Folder to be written: a run folder ``seed-N`` for each seed N, and ``result.json``.
        resume: Go on with the runs in ``out``; there may be more seeds than before.
        cache: A file of replies that all seeds (and other runs) share.
        unlabeled: As for :func:`blackbox_delta.api.tune`, for all seeds.
        observers: Given a seed when its run begins, makes the observer of that run.
        **settings: See :class:`blackbox_delta.settings.Settings`.

    Raises:
        BlackBoxDeltaError: Whatever is wrong, before anything is spent; see
            :mod:`blackbox_delta.errors`.
    """
    chosen = Settings.of(settings)
    if observers is not None and not callable(observers):
        raise ConfigError(f"observers must be a function, not a {type(observers).__name__}")
    splits = draw_splits(load_task(data, columns), chosen, seeds)
    if is_list(unlabeled):
        unlabeled = list(unlabeled)  # for every seed, though it can be gone through but once
    if out is not None:
        check_folders(Path(out), resume, [split.seed for split in splits])
    backend = opened(model)
    if chosen.subspace_from:
        _check_earlier(backend, splits, chosen)
    models = tuple(
        tune(
            backend,
            split,
            columns=columns,
            out=None if out is None else Path(out) / folder_name(split.seed),
            resume=resume,
            cache=cache,
            unlabeled=unlabeled,
            observer=observers(split.seed) if observers else None,
            **{**settings, "seed": split.seed},
        )
        for split in splits
    )
    runs = [model.result for model in models]
    best, why = _recommended(runs)
    advice = {"seed": runs[best]["seed"], "folder": folder_name(runs[best]["seed"]), "why": why}
    result = {**_summary(runs), "recommended": advice, **_verdict(runs)}
    if out is not None:
        write_record(Path(out) / RESULT_NAME, result)
    return SeedsResult(models, models[best], result)


def draw_splits(task: TaskData, settings: Settings, seeds: int) -> list[FewShotSplit]:
    """One split for each of the seeds from the settings' own on, all with its test part.

    Raises:
        ConfigError: There is no seed, or a setting is out of range.
        DataError: A class has too few different examples.
    """
    if whole("the number of seeds", seeds) < 1:
        raise ConfigError(f"the number of seeds must be at least 1, not {seeds}")
    drawn = [draw_for(task, settings, seed) for seed in range(settings.seed, settings.seed + seeds)]
    first = drawn[0]
    return [replace(split, test=first.test, test_seed=first.seed) for split in drawn]


def folder_name(seed: int) -> str:
    """Of a seed's own run."""
    return f"seed-{seed}"


def check_folders(out: Path, resume: bool, seeds: Sequence[int]) -> None:
    """Checks that runs of these seeds can be begun in a folder, or go on there; makes nothing.

    Raises:
        RunError: It holds something else, or runs of more seeds, which would drop out of the sum.
    """
    if is_there(out / RUN_NAME):
        raise RunError(
            f"{out} holds a run of one seed; choose another folder for a run over several"
        )
    if not resume and out.is_dir() and any(out.iterdir()):
        raise RunError(
            f"{out} is not empty; add --resume (in Python resume=True) to go on with the runs in "
            "it, or choose an empty or a new folder"
        )
    wanted = {folder_name(seed) for seed in seeds}
    begun = sorted(run.parent.name for run in out.glob(f"{folder_name(0)[:-1]}*/{RUN_NAME}"))
    if left := [name for name in begun if name not in wanted]:
        raise RunError(
            f"{out} holds {', '.join(left)}, which these seeds leave out; give the seeds that it "
            "was begun with, or more of them, or choose another folder"
        )


def _check_earlier(backend: Backend, splits: Sequence[FewShotSplit], settings: Settings) -> None:
    """Every seed must be able to search the span of earlier runs, before the first one is paid for.

    Raises:
        BlackBoxDeltaError: An earlier run cannot be read, or one of the seeds cannot build upon it.
    """
    earlier = read_earlier(backend, settings.subspace_from or ())
    for split in splits:
        own = settings.model_copy(update={"seed": split.seed})
        try:
            build_problem(backend, split, own, earlier)
        except ConfigError as error:
            if split is splits[0]:
                raise  # no matter of several seeds
            raise ConfigError(
                f"seed {splits[0].seed} can build upon subspace_from, but seed {split.seed} "
                f"cannot: {error}. What a seed draws (the start of a LoRA or an adapter, random "
                "targets) must be that of the earlier runs: take their seed alone, or a delta "
                "of which nothing is drawn"
            ) from error


def _summary(runs: Sequence[Json]) -> Json:
    first = runs[0]
    found: Json = {name: first[name] for name in ("model", "shots", "labels", "budget", "test_n")}
    found["seeds"] = [run["seed"] for run in runs]
    names = ("seed", "estimate", *_SCORES, "verdict")
    found["runs"] = [{name: run.get(name) for name in names} for run in runs]
    found["mean"] = {name: _over(np.mean, runs, name) for name in _SCORES}
    several = len(runs) > 1
    found["deviation"] = {
        name: _over(_deviation, runs, name) if several else None for name in _SCORES
    }
    return {**found, **{name: _over(sum, runs, name) for name in _COSTS}}


def _over(reduce: Callable[[list[Any]], Any], runs: Sequence[Json], name: str) -> Any:
    """One figure over all runs; ``None`` where a run does not have it."""
    values = [run[name] for run in runs]
    if any(value is None for value in values):
        return None
    reduced = reduce(values)
    return float(reduced) if isinstance(reduced, np.floating) else reduced


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


def _recommended(runs: Sequence[Json]) -> tuple[int, str]:
    """Which run's model to answer with, and why. What the test examples said must not matter."""
    estimates = [run.get("estimate") for run in runs]
    if len(runs) == 1 or not all(isinstance(value, int | float) for value in estimates):
        return 0, "the first seed: nothing but the test examples tells the seeds apart"
    best = int(np.argmax(np.array(estimates, dtype=float)))
    return best, "the best estimate on its training examples; test accuracy had no say"


def _verdict(runs: Sequence[Json]) -> Json:
    """Over all seeds, from each run's right and wrong answers."""
    if any(run["comparison"] is None for run in runs):
        return {"verdict": UNMEASURED, "comparison": None}
    baselines, tuned = (
        [_digits(run["test_right"][who]) for run in runs] for who in ("baseline", "tuned")
    )
    unsteady = any(run["comparison"]["unsteady"] for run in runs)
    return told(verdict_over_seeds(np.ones_like(tuned[0]), baselines, tuned, unsteady=unsteady))


def _digits(text: str) -> IntArray:
    return np.array([int(digit) for digit in text], dtype=np.int64)
