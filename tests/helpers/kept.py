"""Tuned models as a search would leave them: with a delta that moves the model by much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from blackbox_delta.artifact import Artifact
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Backend, Example

#: A word of several tokens and one of one, in most tokenizers; labels in their order.
WORDS = {"bad": "terrible dull", "good": "great"}
_TEXTS = ("the film was great", "a dull plot")
_DIMENSION = 20


def kept(
    backend: Backend,
    delta: str | None,
    template: str,
    *,
    words: Mapping[str, str] = WORDS,
    head: str = "plain",
    seed: int = 0,
    size: float = 1.0,
    **told: Any,
) -> TunedModel:
    """A tuned model.

    Args:
        backend: Its model.
        delta: Kind of delta; ``None`` for the untuned model behind a head.
        template: With a slot for a soft prompt alone.
        words: Label words of two labels.
        head: Fitted on two texts.
        seed: Determines where the delta is.
        size: How far away, in steps of a search.
        **told: The delta's settings.
    """
    labels = sorted(words)
    examples = tuple(Example(t, None, label) for t, label in zip(_TEXTS, labels, strict=True))
    settings = Settings(
        recipe="search",
        delta=delta or "soft-prompt",
        template=template,
        dimension=None if delta is None else _DIMENSION,
        label_words=dict(words),
        delta_settings=told,
    )
    problem = build_problem(backend, FewShotSplit(examples, examples, (), 0, 1), settings)
    made = make_head(head, backend.capabilities.max_top_k)
    dimension = problem.frame.subspace.dimension if problem.frame else 0
    z = size * np.random.default_rng(seed).standard_normal(dimension)
    texts = [*problem.train.prompts, *problem.reader.references(made)]
    [seen] = backend.score(problem.request(texts, None, top_k=made.top_k))
    fitted = made.fit(seen.select([0, 1]), problem.train.labels, seen.select(slice(2, None)))
    member = Member("member", problem.reader, fitted)
    if delta is not None:
        member = replace(member, frame=problem.frame, z=z)
    return TunedModel(Artifact.of(backend, [member]), backend)
