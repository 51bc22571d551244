"""The search of one delta as a method of the comparison: every kind with the same head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blackbox_delta.api import describe
from blackbox_delta.artifact import Artifact
from blackbox_delta.budget import Budget
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.searched import RUN, measured, observer
from blackbox_delta.compare.specs import SEARCH, THEN
from blackbox_delta.errors import BudgetError
from blackbox_delta.journal import JournaledBackend
from blackbox_delta.metered import Metered
from blackbox_delta.problem import build_problem
from blackbox_delta.runs import open_run
from blackbox_delta.settings import Settings
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Option, Outcome, Tuner
from blackbox_delta.types import Json


@dataclass(frozen=True)
class Search:
    """The recipe ``search`` with its defaults, but that its delta always answers.

    Of the search distribution's means that were looked at, the one with the lowest development
    loss answers; the untuned model is no choice. The templates are the recipe's own.

    Attributes:
        delta: What is tuned, as the settings say it.
        calls: The budget.
    """

    delta: str
    calls: int

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"{SEARCH}{self.delta.replace(',', THEN)}:{self.calls}"

    @property
    def settings(self) -> Json:
        """What is given, and the defaults: with others the search may find something else."""
        return {**Settings().model_dump(), **self._given}

    @property
    def _given(self) -> Json:
        return {"recipe": "search", "delta": self.delta, "budget": f"{self.calls} calls"}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Searches, or goes on with a search that was interrupted.

        Raises:
            BlackBoxDeltaError: The model does not take the delta, the budget does not suffice for
                one generation, or the model fails.
        """
        words = None if trial.label_words is None else dict(trial.label_words)
        told = {"label_words": words, "seed": trial.seed, "shots": trial.split.shots}
        return run_search(trial, Settings.of({**self._given, **told}), step)


def run_search(trial: Trial, settings: Settings, step: Step) -> Measured:
    """Searches by the recipe ``search``, or goes on with that.

    Args:
        trial: What is tuned on.
        settings: All of them.
        step: Told how far it is.

    Raises:
        BlackBoxDeltaError: The model does not take the delta, the budget does not suffice for one
            generation, or the model fails.
    """
    split = replace(trial.split, test=())
    budget = Budget.parse(settings.budget)
    problem = build_problem(trial.backend, split, settings)
    tuner = Tuner(trial.backend, problem, settings, budget, observer(step))
    description = describe(trial.backend, split, settings)
    with open_run(trial.folder / RUN, description, resume=True) as run:
        outcome = tuner.run(JournaledBackend(trial.backend, run.journal), run.history)
    best, meter = best_delta(outcome, budget), Metered(trial.backend)
    found = replace(outcome, chosen=best).found
    model = TunedModel(Artifact.of(meter, found.members), meter)
    spent = {
        "calls": budget.calls,
        "queries": budget.usage.queries,
        "tokens": budget.usage.tokens,
        "backend_seconds": budget.usage.seconds,
        "optimizer_seconds": outcome.seconds.optimizer,
        "head_seconds": outcome.seconds.head,
    }
    frame = outcome.problem.frame
    details: Json = {
        "generations": outcome.generations,
        "dev_accuracy": best.dev_accuracy,
        "delta": None if frame is None else frame.described(),
    }
    return measured(trial, model, meter, spent, details, step)


def best_delta(outcome: Outcome, budget: Budget) -> Option:
    """The delta with the lowest development loss, however it compares with the untuned model.

    Raises:
        BudgetError: The budget did not last until the first look at one.
    """
    deltas = [option for option in outcome.options if option.name == "delta"]
    if not deltas:
        raise BudgetError(f"the budget of {budget} ran out before a delta was judged")
    return min(deltas, key=lambda option: option.dev_loss)
