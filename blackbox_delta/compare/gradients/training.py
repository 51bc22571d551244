"""The training loop: AdamW on the cross-entropy over the label words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blackbox_delta.compare.gradients.questions import Part
from blackbox_delta.compare.gradients.scoring import LabelScorer
from blackbox_delta.types import IntArray

BATCH = 8
WARM_UP = 0.06
CLIP = 1.0
#: Examples that go through together: the gradient is the whole batch's, with less padding.
_AT_ONCE = 4

#: Told the loss of each optimizer step.
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train.

    Attributes:
        rate: The highest learning rate.
        epochs: Passes over the training examples.
        weight_decay: Of weights, not of offsets and norms.
        seed: Of the order of the examples.
    """

    rate: float
    epochs: int
    weight_decay: float
    seed: int


def epochs_for(shots: int) -> int:
    """10 up to 16 shots a class, fewer beyond so that the number of steps stays bounded, 4 least.

    The number of steps then grows only beyond 40 shots a class.
    """
    return max(4, min(10, round(160 / shots)))


def steps_of(examples: int, epochs: int) -> int:
    """Optimizer steps."""
    return epochs * -(-examples // BATCH)


def train(
    scorer: LabelScorer,
    parameters: Mapping[str, nn.Parameter],
    part: Part,
    plan: Plan,
    tell: Tell,
) -> tuple[float, ...]:
    """Trains in place; the mean loss of each epoch, in nats.

    The gradient's norm is cut at 1. The rate rises over the first 6 % of the steps and falls
    linearly to zero.
    """
    steps = steps_of(len(part), plan.epochs)
    optimizer = torch.optim.AdamW(_groups(parameters, plan.weight_decay), lr=plan.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    generator = torch.Generator().manual_seed(plan.seed)
    losses = []
    for _ in range(plan.epochs):
        total = 0.0
        for batch in _batches(len(part), generator):
            optimizer.zero_grad(set_to_none=True)
            loss = _backward(scorer, part, batch)
            nn.utils.clip_grad_norm_(parameters.values(), CLIP)
            optimizer.step()
            schedule.step()
            total += loss * len(batch)
            tell(loss)
        losses.append(total / len(part))
    optimizer.zero_grad(set_to_none=True)
    return tuple(losses)


def _batches(examples: int, generator: torch.Generator) -> Iterator[IntArray]:
    order = torch.randperm(examples, generator=generator).numpy()
    return (order[first : first + BATCH] for first in range(0, examples, BATCH))


def _backward(scorer: LabelScorer, part: Part, batch: IntArray) -> float:
    """Adds the gradient of the batch's mean loss; that loss."""
    prompts = [part.prompts[index] for index in batch]
    labels = part.labels[batch]
    total = 0.0
    for piece in scorer.pieces(prompts, _AT_ONCE):
        log_proba = scorer.log_proba([prompts[index] for index in piece])
        truth = torch.from_numpy(labels[piece]).to(log_proba.device)
        loss = nn.functional.nll_loss(log_proba, truth, reduction="sum") / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _share(step: int, steps: int) -> float:
    """Of the highest rate; no step's is zero."""
    warm_up = max(1, int(np.ceil(WARM_UP * steps)))
    if step < warm_up:
        return (step + 1) / warm_up
    return max(0.0, (steps - step) / max(1, steps - warm_up))


def _groups(parameters: Mapping[str, nn.Parameter], decay: float) -> list[dict[str, object]]:
    values = list(parameters.values())
    return [
        {"params": [value for value in values if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in values if value.ndim <= 1], "weight_decay": 0.0},
    ]
