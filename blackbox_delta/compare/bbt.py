"""Black-Box Tuning as published: Sun et al. 2022, arXiv 2201.03514."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blackbox_delta.api import describe
from blackbox_delta.artifact import Artifact
from blackbox_delta.budget import Budget
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.metered import Metered
from blackbox_delta.compare.searched import RUN, measured, observer
from blackbox_delta.errors import BudgetError
from blackbox_delta.journal import JournaledBackend
from blackbox_delta.problem import build_problem
from blackbox_delta.runs import open_run
from blackbox_delta.settings import Settings
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Option, Outcome, Tuner
from blackbox_delta.types import Json

#: The defaults of Sun et al. 2022: 50 soft tokens before the text, d = 500, λ = 20, σ = 1, random
#: words to start from, cross-entropy over the label words. The projection is uniform, as theirs;
#: its entries are scaled by the embeddings' deviation, as in BBTv2 (arXiv 2205.11200), for their
#: constant was chosen for RoBERTa. The covariance is full, as theirs: its 35 ms a candidate are
#: little beside prompts that begin with the soft tokens, of which nothing can be reused.
PUBLISHED: Json = {
    "recipe": "search",
    "soft_tokens": 50,
    "soft_init": "random",
    "dimension": 500,
    "population": 20,
    "scale": 1.0,
    "subspace": "uniform",
    "optimizer": "cma",
    "head": "plain",
    "objective": "cross-entropy",
}


@dataclass(frozen=True)
class Bbt:
    """Black-Box Tuning as published: a soft prompt before the text, the plain verbalizer.

    Of the search distribution's means that were looked at, the one with the lowest development
    loss answers; the untuned model is no choice.

    Attributes:
        calls: The budget; a look at a mean costs two of them.
        changed: Settings other than the published ones.
    """

    calls: int
    changed: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"bbt:{self.calls}"

    @property
    def settings(self) -> Json:
        """The published ones and the budget."""
        return {**PUBLISHED, "budget": f"{self.calls} calls", **self.changed}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Searches, or goes on with a search that was interrupted.

        Raises:
            BlackBoxDeltaError: The model takes no soft prompts, the budget does not suffice for
                one generation, or the model fails.
        """
        settings, split = self._settings(trial), replace(trial.split, test=())
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
        details: Json = {"generations": outcome.generations, "dev_accuracy": best.dev_accuracy}
        return measured(trial, model, meter, spent, details, step)

    def _settings(self, trial: Trial) -> Settings:
        return Settings.of(
            {
                **self.settings,
                # " Text" as one token, as within a sentence; the slot leaves spaces to the words.
                "template": "{soft} " + trial.template,
                "label_words": trial.label_words and dict(trial.label_words),
                "seed": trial.seed,
                "shots": trial.split.shots,
            }
        )


def best_delta(outcome: Outcome, budget: Budget) -> Option:
    """The delta with the lowest development loss, however it compares with the untuned model.

    Raises:
        BudgetError: The budget did not last until the first look at one.
    """
    deltas = [option for option in outcome.options if option.name == "delta"]
    if not deltas:
        raise BudgetError(f"the budget of {budget} ran out before a soft prompt was judged")
    return min(deltas, key=lambda option: option.dev_loss)
