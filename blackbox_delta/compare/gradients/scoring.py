"""What the model says: log-probabilities of the classes, with gradients where they are on.

A class's score is the log-probability of its label word, and scores are renormalised over the c
classes, as in LM-BFF (Gao et al., 2021, arXiv 2012.15723). Where all c words differ in their
first token, only first tokens are compared: one sequence an example. Otherwise each word counts
whole, the sum over its tokens with those before it given: a sequence for each word of several
tokens, and one for all words of a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.answer_forms import AnswerForm, continuations
from blackbox_delta.backends.local.layout import padded
from blackbox_delta.backends.local.reading import Targets, logits_at, trunk_of
from blackbox_delta.backends.prompt_encoder import Ids
from blackbox_delta.errors import BackendError
from blackbox_delta.types import IntArray, Vector

#: Examples a batch where no gradient is wanted.
SCORING_BATCH = 32
#: Padded tokens that go through the model at once; what a backward pass keeps grows with them.
TOKENS_AT_ONCE = 4096


def cross_entropy(log_proba: Vector, labels: IntArray) -> float:
    """Mean, in nats, of (n, c) log class probabilities under the right (n,) labels."""
    return -float(np.mean(log_proba[np.arange(len(labels)), labels]))


class DivergedError(BackendError):
    """Training left the model without numbers to answer with."""


class LabelScorer:
    """Reads label words from a causal model, adapted or not.

    Args:
        model: What is called with token ids: the transformers model or PEFT's wrapper of it.
        base: The transformers model itself.
        choices: Token ids of the c label words.
        shift: Tokens that the call puts in front of a sequence.
    """

    def __init__(self, model: Any, base: Any, choices: Sequence[Ids], shift: int = 0) -> None:
        self._model = model
        self._trunk = trunk_of(base)
        self._device = base.get_input_embeddings().weight.device
        self._shift = shift
        firsts = [ids[:1] for ids in choices]
        self._forms = continuations(firsts if len(set(firsts)) == len(firsts) else choices)
        self._targets = [
            Targets.build(form.entries, len(choices), self._device) for form in self._forms
        ]
        self._choices = len(choices)

    def log_proba(self, prompts: Sequence[Ids]) -> torch.Tensor:
        """Log class probabilities (n, c) of a batch, on the model's device."""
        scores = torch.zeros(len(prompts), self._choices, device=self._device)
        for form, targets in zip(self._forms, self._targets, strict=True):
            logits = self._logits(prompts, form)
            # The head's positions are few: the whole vocabulary's normaliser costs little.
            said = torch.log_softmax(logits, dim=-1)[:, targets.position, targets.token]
            scores = scores.index_add(1, targets.choice, said)
        return torch.log_softmax(scores, dim=1)

    def pieces(self, prompts: Sequence[Ids], size: int) -> list[IntArray]:
        """Which of the prompts go through together: at most ``size``, of similar length."""
        order = np.argsort([len(ids) for ids in prompts], kind="stable")
        pieces: list[list[int]] = [[]]
        for index in order.tolist():
            width = (len(prompts[index]) + self._shift) * len(self._forms)
            full = (len(pieces[-1]) + 1) * width > TOKENS_AT_ONCE or len(pieces[-1]) == size
            if full and pieces[-1]:
                pieces.append([])
            pieces[-1].append(index)
        return [np.array(piece, dtype=np.int64) for piece in pieces if piece]

    @torch.no_grad()
    def read(self, prompts: Sequence[Ids]) -> Vector:
        """Log class probabilities (n, c) of any number of prompts.

        Raises:
            DivergedError: The model answers with something else than numbers.
        """
        answers = np.zeros((len(prompts), self._choices))
        for piece in self.pieces(prompts, SCORING_BATCH):
            chosen = [prompts[index] for index in piece]
            answers[piece] = self.log_proba(chosen).double().cpu().numpy()
        if not np.isfinite(answers).all():
            raise DivergedError(
                "the trained model answers NaN or infinity: training diverged; give smaller "
                "learning rates"
            )
        return answers

    def _logits(self, prompts: Sequence[Ids], form: AnswerForm) -> torch.Tensor:
        """Logits (n, p, vocabulary) where the answer's tokens are read."""
        rows = [np.array(ids + form.filling, dtype=np.int64) for ids in prompts]
        last = torch.tensor([len(ids) - 1 + self._shift for ids in prompts])
        positions = last[:, None] + torch.arange(form.reads)
        codes, _ = padded(rows, "right")
        # No mask: in a causal model nothing that is read can see the padding behind it.
        inputs = {"input_ids": torch.from_numpy(codes).to(self._device), "use_cache": False}
        return logits_at(self._model, self._trunk, positions.to(self._device), inputs)
