"""What a run ends with: the members that answer, and how they came about."""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.auto.asking import Asker, Seen
from blackbox_delta.auto.comparing import comparable_losses
from blackbox_delta.auto.estimate import cross_fitted_accuracy
from blackbox_delta.auto.pooling import Pooled, steps
from blackbox_delta.auto.selftraining import SelfTrained
from blackbox_delta.heads import make_head
from blackbox_delta.members import Found, Member
from blackbox_delta.types import Json


def found_by(
    asker: Asker,
    finished: Sequence[Seen],
    most: int,
    trained: SelfTrained | None,
    details: Json,
) -> Found:
    """The pool with heads fitted on all that was asked, and the calibrated default view.

    Args:
        asker: Fits heads.
        finished: Views that finished, the default view first.
        most: Views that an answer may take.
        trained: What texts without labels taught the pool, if it is kept.
        details: What else there is to report.
    """
    buys = steps(finished, asker.labels, most)
    pooled = buys[-1]
    calibrated = asker.fitted(finished[0], make_head("calibrated"))
    report: Json = {
        **details,
        "chosen": "views",
        "head": asker.head.kind,
        "estimate": cross_fitted_accuracy(asker, finished, most),
        "views": _views(asker, finished, pooled),
        "steps": [_step(each) for each in buys],
    }
    return Found(
        finished[0].view.member(calibrated),
        _members(asker, pooled, trained),
        report,
        trained.trained.sharpness if trained else pooled.sharpness,
        head_seconds=asker.head_seconds,
    )


def _members(asker: Asker, pooled: Pooled, trained: SelfTrained | None) -> tuple[Member, ...]:
    """A view's own head, and beside it the one that texts without labels taught."""
    taught = [[head] for head in trained.heads] if trained else [[] for _ in pooled.seen]
    return tuple(
        seen.view.member(head, float(weight))
        for seen, weight, more in zip(pooled.seen, pooled.weights, taught, strict=True)
        for head in (asker.fitted(seen), *more)
    )


def _views(asker: Asker, finished: Sequence[Seen], pooled: Pooled) -> list[Json]:
    losses = dict(zip(finished, comparable_losses(finished, asker.labels), strict=True))
    return [
        {
            "name": seen.view.name,
            "kind": seen.view.kind,
            "weight": float(weight),
            "loss": float(losses[seen]),
        }
        for seen, weight in zip(pooled.seen, pooled.weights, strict=True)
    ]


def _step(pooled: Pooled) -> Json:
    """What an example gets that is answered with so many queries."""
    return {
        "queries_per_answer": len(pooled.seen),
        "held_out_loss": pooled.loss,
        "held_out_accuracy": pooled.accuracy,
    }
