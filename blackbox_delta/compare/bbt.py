"""Black-Box Tuning as published: Sun et al. 2022, arXiv 2201.03514."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.compare.search import run_search
from blackbox_delta.settings import Settings
from blackbox_delta.types import Json

#: The defaults of Sun et al. 2022: 50 soft tokens before the text, d = 500, λ = 20, random words to
#: start from, cross-entropy over the label words; σ = 1 as in the later form of their program. The
#: projection is uniform, as theirs; its entries are scaled by the embeddings' deviation, as in
#: BBTv2 (arXiv 2205.11200), for theirs have one range for all models. The covariance is full, as
#: theirs: its 16 to 32 ms a generation are little beside prompts that begin with the soft tokens,
#: of which nothing can be reused.
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
        return run_search(trial, self._settings(trial), step)

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
