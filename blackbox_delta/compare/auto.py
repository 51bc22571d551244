"""This package's own recipe as a method of the comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blackbox_delta.api import tune
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.searched import RUN, measured, observer
from blackbox_delta.metered import Metered
from blackbox_delta.settings import Settings
from blackbox_delta.types import Json


@dataclass(frozen=True)
class Auto:
    """This package's own recipe, within a budget.

    Attributes:
        calls: The budget.
        without: Parts that are left out.
    """

    calls: int
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the tables call it."""
        return "-".join((f"auto:{self.calls}", *self.without))

    @property
    def settings(self) -> Json:
        """What is given, and the defaults: with others the recipe may find something else."""
        return {**Settings().model_dump(), **self._given}

    @property
    def _given(self) -> Json:
        without = ",".join(self.without) or None
        return {"recipe": "auto", "budget": f"{self.calls} calls", "without": without}

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
