"""The library call behind every face: data in, tuned model out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from blackbox_delta.artifact import Artifact
from blackbox_delta.auto import Auto
from blackbox_delta.backends import opened
from blackbox_delta.beforehand import check_place, check_settings
from blackbox_delta.budget import Budget
from blackbox_delta.earlier import read_earlier
from blackbox_delta.errors import ConfigError
from blackbox_delta.forecast import Forecast
from blackbox_delta.journal import Journal, JournaledBackend
from blackbox_delta.problem import EarlierDelta, build_problem
from blackbox_delta.report import build_result, score_test
from blackbox_delta.runs import RunFolder, is_run_journal, open_run
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import (
    Columns,
    FewShotSplit,
    TaskData,
    digest_of,
    draw_split,
    load_task,
    unlabelled_texts,
)
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Observer, Tuner
from blackbox_delta.types import Backend, Example, Json

#: What goes by the setting ``recipe``.
RECIPES: dict[str, type[Auto] | type[Tuner]] = {"auto": Auto, "search": Tuner}


def tune(
    model: str | Backend,
    data: str | Path | TaskData | FewShotSplit,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    columns: Columns | None = None,
    unlabeled: str | Path | Sequence[str | Example] | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> TunedModel:
    """Tunes a frozen model on a few labelled examples by forward passes alone.

    Args:
        model: A model's name (see :func:`blackbox_delta.backends.open_backend`) or an open
            backend, such as one behind an inference API.
        data: A folder, a file, ``hub:NAME``, :func:`blackbox_delta.tasks.task_from_lists`'s
            result, or a split drawn already, for which ``shots`` and ``max_test`` say nothing.
        out: Run folder to be written; without one nothing is kept on disk.
        resume: Go on with the run in ``out``.
        cache: A file of replies that several runs share, also at the same time; made if it is not
            there. What it holds is not asked again.
        columns: Names of the columns in the data.
        unlabeled: Texts without labels that ``auto`` may learn from besides: a file as for
            :func:`blackbox_delta.tasks.read_texts`, or the texts themselves.
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
    if out is None and (resume or cache is not None):
        what = "resume" if resume else "cache"
        raise ConfigError(f"{what} needs a run folder: give out=FOLDER")
    if observer is not None and not callable(observer):
        raise ConfigError(f"observer must be a function, not a {type(observer).__name__}")
    split, chosen = _split(data, columns, chosen)
    texts = _texts(unlabeled, split, columns, chosen)
    check_settings(split, chosen)
    if out is not None:
        check_place(Path(out), resume=resume, cache=None if cache is None else Path(cache))
    budget = Budget.parse(chosen.budget, chosen.prices)
    backend = opened(model)
    earlier = read_earlier(backend, chosen.subspace_from or ())
    problem = replace(build_problem(backend, split, chosen, earlier), texts=texts)
    tuner = RECIPES[chosen.recipe](backend, problem, chosen, budget, observer)
    description = describe(backend, split, chosen, texts, earlier)
    with _recorded(backend, description, out, resume, cache) as (asked, run):
        began = time.perf_counter()
        found = tuner.run(asked, run.history if run else None).found
        test = score_test(asked, found, split.test, tuner.tell_tested)
        result = build_result(backend, chosen, budget, found, test)
        result["train_n"] = len(split.train)
        result["known_in_test"] = split.known_in_test
        result["test_seed"] = split.seed if split.test_seed is None else split.test_seed
        result["seconds"] = time.perf_counter() - began
        artifact = Artifact.of(backend, found.members, found.sharpness)
        if run:
            run.finish(artifact, result)
    return TunedModel(artifact, backend, result)


def forecast(
    model: str | Backend,
    data: str | Path | TaskData | FewShotSplit,
    *,
    columns: Columns | None = None,
    unlabeled: str | Path | Sequence[str | Example] | None = None,
    **settings: Any,
) -> Forecast:
    """What :func:`tune` would spend with the same arguments. Nothing is sent, nothing written.

    Args:
        model: As for :func:`tune`.
        data: As for :func:`tune`.
        columns: Names of the columns in the data.
        unlabeled: As for :func:`tune`.
        **settings: As for :func:`tune`.

    Raises:
        BlackBoxDeltaError: Whatever is wrong, as in :func:`tune`; a budget in seconds too, for
            nobody knows how fast the model will answer.
    """
    chosen = Settings.of(settings)
    split, chosen = _split(data, columns, chosen)
    texts = _texts(unlabeled, split, columns, chosen)
    check_settings(split, chosen)
    budget = Budget.parse(chosen.budget, chosen.prices)
    backend = opened(model)
    earlier = read_earlier(backend, chosen.subspace_from or ())
    problem = replace(build_problem(backend, split, chosen, earlier), texts=texts)
    return RECIPES[chosen.recipe](backend, problem, chosen, budget).forecast()


def _split(
    data: str | Path | TaskData | FewShotSplit, columns: Columns | None, settings: Settings
) -> tuple[FewShotSplit, Settings]:
    if isinstance(data, FewShotSplit):
        return data, settings.model_copy(update={"shots": data.shots})
    task = load_task(data, columns)
    return draw_for(task, settings, settings.seed), settings


def draw_for(task: TaskData, settings: Settings, seed: int) -> FewShotSplit:
    """The split that such settings draw with a seed.

    Raises:
        ConfigError: A setting is out of range.
        DataError: A class has too few different examples.
    """
    development = settings.uses_development
    return draw_split(task, settings.shots, seed, settings.max_test, development=development)


def _texts(
    unlabeled: str | Path | Sequence[str | Example] | None,
    split: FewShotSplit,
    columns: Columns | None,
    settings: Settings,
) -> tuple[Example, ...]:
    if unlabeled is None:
        return ()
    if settings.recipe != "auto":
        raise ConfigError(
            f"the recipe '{settings.recipe}' learns from labelled examples alone; leave unlabeled "
            "out, or use the recipe 'auto'"
        )
    return unlabelled_texts(unlabeled, split, columns)


@contextmanager
def _recorded(
    backend: Backend,
    description: Json,
    out: str | Path | None,
    resume: bool,
    cache: str | Path | None,
) -> Iterator[tuple[Backend, RunFolder | None]]:
    """The backend behind the run's journal and the shared cache, where there are any."""
    if out is None:
        yield backend, None
        return
    with ExitStack() as stack:
        shared = None
        # First, so that a file that is no cache leaves no folder behind.
        if cache is not None:
            path = Path(cache)
            shared = stack.enter_context(Journal.open(path, create=True, shared=True))
        run = stack.enter_context(open_run(Path(out), description, resume=resume))
        # Another run's journal tells what that run cost: it is read from alone.
        lent = cache is not None and is_run_journal(Path(cache))
        yield JournaledBackend(backend, run.journal, shared, lent=lent), run


def describe(
    backend: Backend,
    split: FewShotSplit,
    settings: Settings,
    texts: Sequence[Example] = (),
    earlier: Sequence[EarlierDelta] = (),
) -> Json:
    """Everything that determines a run; two runs with the same description end the same."""
    return {
        "settings": settings.model_dump(),
        "model": backend.name,
        "identity": dict(backend.identity),
        # How a server was found to be used: a resumed run need not ask again.
        "access": backend.address.get("access"),
        "data": split.digest(),
        **({"unlabeled": digest_of(texts)} if texts else {}),
        **({"subspace_from": [each.digest for each in earlier]} if earlier else {}),
    }
