"""What ``tune`` and ``demo`` do once their options are read: with one seed, or with several."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from blackbox_delta.cli.models import Source
from blackbox_delta.settings import Settings

if TYPE_CHECKING:
    from blackbox_delta.journal import Spending
    from blackbox_delta.tasks import FewShotSplit, TaskData
    from blackbox_delta.tuner import Observer
    from blackbox_delta.types import Example, Json


@dataclass(frozen=True)
class Job:
    """A tuning that was asked for.

    Attributes:
        source: Where the model comes from.
        task: The labelled data.
        settings: How to tune; the seed is the first one.
        splits: What is drawn with each seed.
        out: Where to keep what is found.
        resume: Go on with what is there.
        cache: A file of replies that runs share.
        unlabeled: Texts without labels to learn from besides; ``None`` for none.
    """

    source: Source
    task: TaskData
    settings: Settings
    splits: tuple[FewShotSplit, ...]
    out: Path | None = None
    resume: bool = False
    cache: Path | None = None
    unlabeled: tuple[Example, ...] | None = None

    @classmethod
    def drawn(cls, source: Source, task: TaskData, settings: Settings, seeds: int = 1) -> Job:
        """A job that keeps nothing.

        Raises:
            DataError: A class has too few different examples.
        """
        from blackbox_delta.seeds import draw_splits

        return cls(source, task, settings, tuple(draw_splits(task, settings, seeds)))

    def kept(self, out: Path | None, *, resume: bool = False, cache: Path | None = None) -> Job:
        """The same in a run folder; a server is used as it was when that was begun.

        Raises:
            RunError: It was to be used otherwise then, or the run's description is damaged.
        """
        from blackbox_delta.seeds import folder_name

        source = self.source
        if resume and out is not None:
            begun = out if self.alone else out / folder_name(self.settings.seed)
            source = source.resuming(begun)
        return replace(self, source=source, out=out, resume=resume, cache=cache)

    @property
    def alone(self) -> bool:
        """Whether there is one seed only."""
        return len(self.splits) == 1

    @property
    def folders(self) -> tuple[Path, ...]:
        """That of the run, or one for each seed; none where nothing is kept."""
        from blackbox_delta.seeds import folder_name

        if self.out is None or self.alone:
            return () if self.out is None else (self.out,)
        return tuple(self.out / folder_name(split.seed) for split in self.splits)


def show_forecast(job: Job, out: Console, err: Console) -> None:
    """Says what the job will cost; sends nothing, writes nothing."""
    from blackbox_delta import display
    from blackbox_delta.api import forecast

    _check(job)
    chosen = {"unlabeled": job.unlabeled, **job.settings.model_dump()}
    with job.source.assumed().opened(err) as backend:
        if backend.address:
            display.say(out, f"Assumed: {display.access_line(backend.address)}")
        forecasts = {
            split.seed: forecast(backend, split, **chosen | {"seed": split.seed})
            for split in job.splits
        }
    display.show_forecasts(out, forecasts, job.settings.recipe)
    for line in _held(job):
        display.say(out, line)


def _held(job: Job) -> Iterator[str]:
    """What of the job is answered already, and so is not asked again.

    Raises:
        JournalError: The journal of a run that is to be resumed is in use or damaged.
    """
    from blackbox_delta.prices import dollars

    totals = _totals(job) if job.resume else []
    if replies := sum(total.replies for total in totals):
        paid = [total.usage for total in totals]
        prices = job.settings.prices
        cost = f", {dollars(sum(map(prices.cost, paid)))}" if prices else ""
        yield (
            f"{replies:,} of these queries are answered in {job.out} and are not asked again "
            f"({sum(usage.tokens for usage in paid):,} prompt tokens{cost} were paid for them)."
        )
    if job.cache is not None:
        yield f"What {job.cache} holds is not taken off: it only shows what a run asks for."


def _totals(job: Job) -> list[Spending]:
    """What each of its journals holds, as far as they are there.

    Raises:
        JournalError: One is in use or damaged.
    """
    from blackbox_delta.journal import summarise
    from blackbox_delta.runs import JOURNAL_NAME

    journals = [folder / JOURNAL_NAME for folder in job.folders]
    return [summarise(path).total for path in journals if path.is_file()]


def carry_out(job: Job, err: Console) -> Json:
    """Tunes, shown on stderr; the content of ``result.json``."""
    from blackbox_delta.api import tune
    from blackbox_delta.display import access_line, plan_line, say, search_display
    from blackbox_delta.runs import RUN_NAME, is_there
    from blackbox_delta.seeds import tune_over_seeds

    split, settings = job.splits[0], job.settings
    _check(job)
    told: dict[str, Any] = {"out": job.out, "resume": job.resume, "cache": job.cache}
    told |= {"unlabeled": job.unlabeled, **settings.model_dump()}
    # Before a server is asked what it offers: who mistyped the folder may still stop.
    if job.resume and not any(is_there(folder / RUN_NAME) for folder in job.folders):
        say(err, f"There is no run in {job.out} yet: a new one begins.")
    with job.source.opened(err) as backend:
        if backend.address:
            say(err, access_line(backend.address))
            if job.out is None:
                say(err, "Without --out nothing is kept, the replies that are paid for neither.")
        seeds = len(job.splits)
        say(err, plan_line(backend.name, split, settings, backend.capabilities, seeds))
        with search_display(err) as observer:
            if job.alone:
                return tune(backend, split, observer=observer, **told).result

            def begin(seed: int) -> Observer:
                count = 1 + seed - settings.seed
                say(err, f"Seed {seed}, {count} of {seeds}:")
                return observer

            return tune_over_seeds(backend, job.task, seeds, observers=begin, **told).result


def _check(job: Job) -> None:
    """Finds what is wrong before a server is asked what it offers, which takes some 20 queries.

    Raises:
        BlackBoxDeltaError: Something is.
    """
    from blackbox_delta.beforehand import check_place, check_settings
    from blackbox_delta.seeds import check_folders

    for split in job.splits:
        check_settings(split, job.settings)
    job.source.check_kinds(job.settings.delta_kinds)
    if job.out is not None and not job.alone:
        check_folders(job.out, job.resume, [split.seed for split in job.splits])
    for folder in job.folders:
        check_place(folder, resume=job.resume, cache=job.cache)


def show_found(job: Job, result: Json, out: Console) -> None:
    """What was found, and what to do with it."""
    from blackbox_delta.display import say, show_result, show_seeds_result
    from blackbox_delta.runs import JOURNAL_NAME

    if job.alone:
        show_result(out, result)
    else:
        show_seeds_result(out, result)
    if job.cache and (cached := sum(total.cached for total in _totals(job))):
        say(out, f"{cached:,} of these queries came from {job.cache} and cost nothing.")
    if job.out is None:
        say(out, "Nothing was kept; add --out RUN to keep the tuned model.")
        return
    if job.alone and result["queries_per_answer"] > 1:
        say(
            out,
            "Fewer queries an answer: --max-queries-per-example N and another --out, with --cache "
            f"{shlex.quote(str(job.out / JOURNAL_NAME))} what is paid already is not paid again.",
        )
    run = job.out if job.alone else job.out / result["recommended"]["folder"]
    command = ["blackbox-delta", "predict", str(run), "FILE", *job.source.key_options]
    say(out, f"{what_next(result)}: {shlex.join(command)}")


def what_next(result: Json) -> str:
    """What the command that answers with the tuned model is, after what the verdict said of it."""
    compared = result["comparison"]
    advised = compared is None or compared["kind"] == "gain"
    return "Next" if advised else "To use it all the same"
