"""Reading log-probabilities at the few positions that matter.

The language-model head of a model is position-wise: whatever its layers, feeding it only the
positions that are asked for gives the same logits there. A hook on the trunk drops the others
before the head sees them, for any architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blackbox_delta.errors import BackendError
from blackbox_delta.types import FloatArray, IntArray


def trunk_of(model: Any) -> Any:
    """The part of a language model that its head reads from."""
    # Some models call a decoder inside their base model directly, and in others what is called
    # decoder is the head's last layer.
    decoder, base = model.get_decoder(), model.base_model
    return decoder if any(part is decoder for part in base.modules()) else base


def logits_at(
    model: Any, trunk: torch.nn.Module, positions: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Logits (rows, p, vocabulary) at ``positions`` (rows, p) of each row."""
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    dropped = False

    def drop_others(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal dropped
        states = getattr(output, "last_hidden_state", None)
        # A decoder may have the head within: all its logits are there then.
        if states is not None:
            dropped = True
            output.last_hidden_state = states[rows, positions]
        return output

    handle = trunk.register_forward_hook(drop_others)
    try:
        logits: torch.Tensor = model(**inputs).logits
    finally:
        handle.remove()
    # The hook never sees a trunk that is not called as a whole, and a head may read what else a
    # trunk puts out: then there are logits of all positions.
    if dropped and logits.shape[1] == positions.shape[1]:
        return logits
    return logits[rows, positions]


@dataclass(frozen=True)
class Targets:
    """Which token is read where, so that a choice's score is the sum over its tokens.

    Attributes:
        position: (e,) index into the p positions read.
        token: (e,) vocabulary row.
        choice: (e,) which of the c choices the entry adds to.
        choices: c.
    """

    position: torch.Tensor
    token: torch.Tensor
    choice: torch.Tensor
    choices: int

    @classmethod
    def build(
        cls, entries: Sequence[tuple[int, int, int]], choices: int, device: torch.device
    ) -> Targets:
        """From (position, token, choice) triples."""
        position, token, choice = torch.tensor(entries, device=device).T
        return cls(position, token, choice, choices)


@dataclass
class Readings:
    """Results in the making: (λ, n, c) label log-probabilities and (λ, n, k) top tokens."""

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray

    @classmethod
    def empty(cls, candidates: int, examples: int, choices: int, top_k: int) -> Readings:
        """Filled with NaN, so that what was never read cannot pass for a score."""
        shape = (candidates, examples)
        return cls(
            np.full((*shape, choices), np.nan, dtype=np.float32),
            np.zeros((*shape, top_k), dtype=np.int64),
            np.full((*shape, top_k), np.nan, dtype=np.float32),
        )

    def of(self, chunk: slice) -> Readings:
        """Those of some candidates, to be filled in their place."""
        parts = self.label_logprobs[chunk], self.top_ids[chunk], self.top_logprobs[chunk]
        return Readings(*parts)

    def check(self) -> None:
        """Errors are never scores.

        Raises:
            BackendError: A score is missing, infinite or not a number.
        """
        for name in ("label_logprobs", "top_logprobs"):
            values = getattr(self, name)
            if not np.isfinite(values).all():
                raise BackendError(
                    f"the model answered {np.size(values) - np.isfinite(values).sum()} of "
                    f"{np.size(values)} {name} with NaN or infinity; the precision may be too "
                    "low for this model or the delta too large (try dtype fp32 or a smaller scale)"
                )


def read_logits(
    logits: torch.Tensor, targets: Targets, top_k: int
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Choice scores (rows, c) and the top tokens (rows, k) at position 0.

    Args:
        logits: (rows, p, vocabulary).
        targets: What to read; position 0 is where the answer starts.
        top_k: k.
    """
    logits = logits.float()
    normaliser = torch.logsumexp(logits, dim=-1)
    read = logits[:, targets.position, targets.token] - normaliser[:, targets.position]
    # A fixed order of summation, entry by entry: results must not vary from run to run.
    scores = torch.zeros(len(logits), targets.choices, device=logits.device)
    scores = scores.index_add(1, targets.choice, read)
    top = torch.topk(logits[:, 0] - normaliser[:, :1], top_k, dim=-1)
    return (
        scores.cpu().numpy(),
        top.indices.cpu().numpy(),
        top.values.cpu().numpy(),
    )
