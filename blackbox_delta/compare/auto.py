"""This package's own recipe as a method of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blackbox_delta.api import tune
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.metered import Metered
from blackbox_delta.compare.searched import RUN, measured, observer
from blackbox_delta.settings import Settings
from blackbox_delta.types import Json


@dataclass(frozen=True)
class Auto:
    """This package's own recipe, within a budget.

    Attributes:
        calls: The budget.
        given: Settings that are not left to their defaults.
    """

    calls: int
    given: Mapping[str, object] = field(default_factory=lambda: {"recipe": "auto"})

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"auto:{self.calls}"

    @property
    def settings(self) -> Json:
        """What is given, and the defaults: with others the recipe may find something else."""
        return {**Settings().model_dump(), **self._given}

    @property
    def _given(self) -> Json:
        return {**self.given, "budget": f"{self.calls} calls"}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Tunes, or goes on with a run that was interrupted.

        The recipe brings templates of its own; the trial's is not given to it.

        Raises:
            BlackBoxDeltaError: The budget does not suffice, or the model fails.
        """
        meter = Metered(trial.backend)
        model = tune(
            meter,
            replace(trial.split, test=()),
            out=trial.folder / RUN,
            resume=True,
            observer=observer(step),
            **self._given,
            seed=trial.seed,
            label_words=None if trial.label_words is None else dict(trial.label_words),
        )
        kept = ("chosen", "head", "template", "start", "dev_accuracy", "recipe")
        details = {name: model.result[name] for name in kept if name in model.result}
        return measured(trial, model, meter, model.result, details, step)
