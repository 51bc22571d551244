"""What the tests ask real servers, and what these count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import httpx
import numpy as np

from blackbox_delta.tasks import task_from_lists
from blackbox_delta.types import (
    AnswerSlot,
    DeltaBatch,
    EmbeddingTable,
    FloatArray,
    Prompt,
    SoftSlot,
    Words,
)

#: Short reviews in two classes.
REVIEWS = task_from_lists(
    [
        f"a {mood} {what}"
        for mood in ("superb", "clumsy")
        for what in ("film", "song", "meal", "act")
    ],
    ["good"] * 4 + ["bad"] * 4,
    test=(["a lovely show", "an awful tour", "a fine play", "a dull novel"], ["good", "bad"] * 2),
)
#: A run of a few seconds.
TINY = {"shots": 2, "label_words": {"good": "great", "bad": "terrible"}}

WORDS = (" great", " terrible", " good", " bad")
TEXTS = (
    "a wonderful film, warm and funny",
    "The plot is dull, the actors are worse, and it goes on for three hours.",
    "Fine.",
    'He said: "Never again!" 🙄 (and he meant it)',
)


def in_front(text: str) -> Prompt:
    """A soft slot, the text, the answer."""
    words = Words(text, truncatable=True)
    return Prompt((SoftSlot("soft"), words, Words("\nIt was"), AnswerSlot()))


def behind(text: str) -> Prompt:
    """The text, a soft slot, the answer."""
    words = Words(text, truncatable=True)
    return Prompt((words, SoftSlot("soft"), Words("\nIt was"), AnswerSlot()))


def near_words(
    table: EmbeddingTable, candidates: int, tokens: int, seed: int, noise: float = 0.3
) -> DeltaBatch:
    """Soft prompts (λ, tokens, hidden) around the embeddings of random words."""
    rng = np.random.default_rng(seed)
    shape = (candidates, tokens, table.hidden_size)
    ids = rng.integers(200, table.vocabulary_size, size=candidates * tokens)
    rows: FloatArray = table.rows(ids.tolist()).reshape(shape)
    value = rows + noise * table.std * rng.standard_normal(shape)
    return DeltaBatch("soft-prompt", {"soft": value.astype(np.float32)})


def counters(url: str) -> Mapping[str, float]:
    """A server's own counters (Prometheus), summed over their labels.

    Of vLLM's HTTP requests those alone count that ask the model.
    """
    text = httpx.get(f"{url.removesuffix('/v1')}/metrics", trust_env=False).text
    totals: dict[str, float] = {}
    for name, labels, value in re.findall(r"(?m)^([\w:]+)(?:\{(.*)\})? (\S+)$", text):
        if name != "http_requests_total" or "completions" in labels:
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def gained(url: str, before: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """How far counters went up."""
    now = counters(url)
    return [now[name] - before.get(name, 0.0) for name in names]
