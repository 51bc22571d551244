"""Methods that leave the prompt as it is and work on the model's answers: one query an example."""

from __future__ import annotations

import time
from dataclasses import dataclass

from blackbox_delta.compare.asking import Asker, head_bytes, reader_of
from blackbox_delta.compare.contract import Measured, Step, Trial
from blackbox_delta.heads import make_head
from blackbox_delta.types import Json


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
    Efficient Language Understanding as Decoding", arXiv 2212.09666): calibrated label scores and
    class prototypes. DecT's prototypes are made of hidden states, which APIs do not return; here
    they are made of the answer's distribution.

    Attributes:
        name: As the tables call it.
        head: The head's name.
    """

    name: str
    head: str

    @property
    def settings(self) -> Json:
        """The head."""
        return {"head": self.head}

    def run(self, trial: Trial, step: Step) -> Measured:
        """Asks about every training example once and fits the head.

        Raises:
            BlackBoxDeltaError: The template or the label words do not fit, the model fails, or
                the head cannot be fitted on these examples.
        """
        head = make_head(self.head, trial.backend.capabilities.max_top_k)
        reader = reader_of(trial)
        asker = Asker(trial.backend, reader, head.top_k, step)
        train, usage = asker.evidence(trial.split.train, "training")
        began = time.perf_counter()
        fitted = head.fit(train, reader.verbalizer.encode(trial.split.train), None)
        fitting = time.perf_counter() - began
        test, _ = asker.evidence(trial.split.test, "test")
        return Measured(
            log_proba=fitted.log_proba(test),
            train_log_proba=fitted.log_proba(train),
            calls=1,
            queries=usage.queries,
            tokens=usage.tokens,
            seconds=usage.seconds + fitting,
            test_queries=1,
            artifact_bytes=head_bytes(trial, reader, fitted),
        )
