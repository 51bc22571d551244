"""Methods that leave the prompt as it is and work on the model's answers: one query an example."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox_delta.compare.asking import Asker, head_bytes, reader_of
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.heads import make_head
from blackbox_delta.objectives import make_objective
from blackbox_delta.problem.starts import find_starts
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import DEFAULT_STARTS
from blackbox_delta.types import Evidence, Head, IntArray, Json, Usage

#: A search whose delta fills no slot, so that plain words stand there.
_SEARCH = Settings(recipe="search", delta="lora")


@dataclass(frozen=True)
class Untuned:
    """The likeliest label word: what the model says before anything is done to it."""

    name: str = "untuned"

    @property
    def settings(self) -> Json:
        """None."""
        return {}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Answers; nothing is spent on tuning.

        Raises:
            BlackBoxDeltaError: The template or the label words do not fit, or the model fails.
        """
        reader = reader_of(trial)
        asker = Asker(trial.backend, reader, 0, step)
        train, _ = asker.evidence(trial.split.train, "training")
        test, _ = asker.evidence(trial.split.test, "test")
        head = make_head("plain").fit(train, reader.verbalizer.encode(trial.split.train), None)
        return Measured(
            log_proba=head.log_proba(test),
            train_log_proba=head.log_proba(train),
            calls=0,
            queries=0,
            tokens=0,
            seconds=0.0,
            test_queries=1,
            artifact_bytes=head_bytes(trial, reader, head),
        )


@dataclass(frozen=True)
class OutputSide:
    """A head fitted on the model's answers to the training examples.

    ``calibrated`` is the baseline of all comparisons: each label's mean log-probability over the
    training examples is taken off. ``dect`` follows DecT (Cui et al. 2023, "Decoder Tuning:
    Efficient Language Understanding as Decoding", arXiv 2212.08408): calibrated label scores and
    class prototypes. DecT's prototypes are made of hidden states, which APIs do not return; here
    they are made of the answer's distribution.

    Attributes:
        name: As the tables call it.
        head: The head's name.
        starts: Whether the words before the answer are chosen too, as the recipe ``search`` does:
            of its own, those behind which the held-out loss is the lowest. A search begins there,
            so that is what its delta must be compared with.
    """

    name: str
    head: str
    starts: bool = False

    @property
    def settings(self) -> Json:
        """The head, and the words to choose among."""
        return {"head": self.head} | ({"starts": list(DEFAULT_STARTS)} if self.starts else {})

    def run(self, trial: Trial, step: Step) -> Measured:
        """Asks about every training example once, behind each of the words, and fits the head.

        Raises:
            BlackBoxDeltaError: The template or the label words do not fit, the model fails, or
                the head cannot be fitted on these examples.
        """
        head = make_head(self.head, trial.backend.capabilities.max_top_k)
        askers = [
            Asker(trial.backend, reader_of(trial, source), head.top_k, step)
            for source in self._templates(trial)
        ]
        asked = [asker.evidence(trial.split.train, "training") for asker in askers]
        began = time.perf_counter()
        labels = askers[0].reader.verbalizer.encode(trial.split.train)
        best = _lowest_loss(head, [train for train, _ in asked], labels)
        asker, (train, _) = askers[best], asked[best]
        fitted = head.fit(train, labels, None)
        fitting = time.perf_counter() - began
        test, _ = asker.evidence(trial.split.test, "test")
        usage = sum((usage for _, usage in asked), Usage())
        return Measured(
            log_proba=fitted.log_proba(test),
            train_log_proba=fitted.log_proba(train),
            calls=len(asked),
            queries=usage.queries,
            tokens=usage.tokens,
            seconds=usage.seconds + fitting,
            test_queries=1,
            artifact_bytes=head_bytes(trial, asker.reader, fitted),
            details={"template": asker.reader.template.source} if self.starts else {},
        )

    def _templates(self, trial: Trial) -> list[str]:
        if not self.starts:
            return [trial.template]
        pairs = trial.split.train[0].text_pair is not None
        found = find_starts(trial.backend, _SEARCH, reader_of(trial).verbalizer, pairs)
        return [start.source for start in found]


def _lowest_loss(head: Head, asked: Sequence[Evidence], labels: IntArray) -> int:
    """Which evidence leaves the head the lowest held-out loss."""
    if len(asked) == 1:
        return 0
    loss = make_objective(_SEARCH.objective)
    return int(np.argmin([loss(head.held_out(each, labels, None), labels) for each in asked]))
