"""The words that every part shares. Of ours they rest on nothing but models' shapes and tensors.

Letters mean the same everywhere: λ candidates, n examples, c choices,
d search dimension, D delta size, k top tokens.
"""

from blackbox_delta.types.arrays import FloatArray, IntArray, Json, Vector
from blackbox_delta.types.deltas import (
    AT_LAYER,
    DEEP_PROMPT,
    IN_SLOTS,
    PREFIX,
    SOFT_PROMPT,
    Delta,
    DeltaBatch,
    DividedDelta,
    EmbeddingTable,
    is_deferred,
)
from blackbox_delta.types.open_model import MERGEABLE, OpenModel
from blackbox_delta.types.prompts import (
    AnswerSlot,
    DecoderStart,
    Example,
    Prompt,
    Segment,
    SoftSlot,
    Words,
)
from blackbox_delta.types.scoring import (
    Backend,
    Capabilities,
    Evidence,
    Reply,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
    no_label,
)
from blackbox_delta.types.search import FittedHead, Head, Optimizer

__all__ = [
    "AT_LAYER",
    "DEEP_PROMPT",
    "IN_SLOTS",
    "MERGEABLE",
    "PREFIX",
    "SOFT_PROMPT",
    "AnswerSlot",
    "Backend",
    "Capabilities",
    "DecoderStart",
    "Delta",
    "DeltaBatch",
    "DividedDelta",
    "EmbeddingTable",
    "Evidence",
    "Example",
    "FittedHead",
    "FloatArray",
    "Head",
    "IntArray",
    "Json",
    "OpenModel",
    "Optimizer",
    "Prompt",
    "Reply",
    "ScoreRequest",
    "Scores",
    "Segment",
    "Sink",
    "SoftSlot",
    "Usage",
    "Vector",
    "Words",
    "is_deferred",
    "no_label",
]
