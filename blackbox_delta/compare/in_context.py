"""In-context learning: labelled examples stand before the one that is asked about.

Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv 2005.14165. Demonstrations make
some label words likely whatever the text says (Zhao et al. 2021, arXiv 2102.09690); so each label's
mean log-probability over the training examples that are no demonstrations is taken off, as the
calibrated baseline does without demonstrations.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from blackbox_delta.compare.asking import Asker, head_bytes, reader_of
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.errors import DataError
from blackbox_delta.heads import make_head
from blackbox_delta.problem import Reader
from blackbox_delta.types import IntArray, Json, ScoreRequest

#: Prompt tokens that demonstrations may take; more do not fit beside a text into every context.
MAX_TOKENS = 1024


@dataclass(frozen=True)
class InContext:
    """One demonstration per class, as many as fit, in random order before every text.

    Attributes:
        name: As the tables call it.
        max_tokens: What all demonstrations together may take.
    """

    name: str = "in-context"
    max_tokens: int = MAX_TOKENS

    @property
    def settings(self) -> Json:
        """What the demonstrations may take, and how they are used."""
        return {"max_tokens": self.max_tokens, "per_class": 1, "head": "calibrated"}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Chooses demonstrations by the trial's seed and asks about every training example once.

        Raises:
            BlackBoxDeltaError: The template or the label words do not fit, the model fails, or not
                even one demonstration fits.
        """
        bare, train = reader_of(trial), trial.split.train
        truth = bare.verbalizer.encode(train)
        shown = self._choose(trial, bare, truth)
        if not shown:
            raise DataError(
                f"the first demonstration alone takes more than {self.max_tokens:,} tokens"
            )
        reader = bare.demonstrating([train[row] for row in shown])
        asker = Asker(trial.backend, reader, 0, step)
        seen, usage = asker.evidence(train, "training")
        rest = np.setdiff1d(np.arange(len(train)), shown)
        # With one example a class all of them are shown, and there are no others.
        rows = rest if len(rest) > 1 else np.arange(len(train))
        fitted = make_head("calibrated").fit(seen.select(rows), truth[rows], None)
        test, _ = asker.evidence(trial.split.test, "test")
        return Measured(
            log_proba=fitted.log_proba(test),
            train_log_proba=fitted.log_proba(seen),
            calls=1,
            queries=usage.queries,
            tokens=usage.tokens,
            seconds=usage.seconds,
            test_queries=1,
            artifact_bytes=head_bytes(trial, reader, fitted),
            details={"demonstrations": len(shown), "centred_on": len(rows)},
        )

    def _choose(self, trial: Trial, reader: Reader, truth: IntArray) -> list[int]:
        """Rows of one example per class in random order; classes that do not fit are left out."""
        # A stream of its own: split, subspace and search are drawn from the seed too.
        name = hashlib.sha256(self.name.encode()).digest()
        rng = np.random.default_rng([trial.seed, int.from_bytes(name[:8], "little")])
        classes = rng.permutation(len(reader.verbalizer.labels))
        drawn = [int(rng.choice(np.flatnonzero(truth == label))) for label in classes]
        request = ScoreRequest(
            reader.prompts([trial.split.train[row] for row in drawn]), reader.choices
        )
        tokens = np.cumsum(trial.backend.count_tokens(request))
        return [row for row, sofar in zip(drawn, tokens, strict=True) if sofar <= self.max_tokens]
