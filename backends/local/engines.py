"""Which engine evaluates a model: the one that shares prefixes, where it proves itself."""

from __future__ import annotations

import logging
from typing import TypeAlias

import numpy as np
import torch

from blackbox_delta.backends.local import attention
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.backends.local.plain import PlainEngine
from blackbox_delta.backends.prompt_encoder import EncodedPrompt
from blackbox_delta.errors import BlackBoxDeltaError, ModelError
from blackbox_delta.types import FloatArray, SoftSlot

logger = logging.getLogger(__name__)

Engine: TypeAlias = CausalEngine | PlainEngine

#: Largest difference in log-probability between the two engines that rounding explains.
AGREEMENT = {torch.float32: 5e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def choose_engine(loaded: LoadedModel, limit: MemoryLimit) -> Engine:
    """The fastest engine that answers right on this model.

    Raises:
        ModelError: A masked model's tokenizer has no mask.
    """
    if loaded.kind == "masked":
        mask = loaded.tokenizer.mask_token_id
        if mask is None:
            raise ModelError(f"the tokenizer of {loaded.name!r} has no mask token")
        return PlainEngine(loaded.model, loaded.kind, limit, mask)
    plain = PlainEngine(loaded.model, loaded.kind, limit)
    return plain if loaded.kind == "seq2seq" else _proven(loaded, plain, limit)


def _proven(loaded: LoadedModel, plain: PlainEngine, limit: MemoryLimit) -> Engine:
    """The shared-prefix engine, if on this model it answers as plain evaluation does."""
    model, weights = loaded.model, loaded.model.get_input_embeddings().weight
    own_attention = model.config._attn_implementation
    try:
        expected = _probe(plain, weights)
    except BlackBoxDeltaError:
        raise
    except Exception as error:  # an unknown architecture may fail in any way
        raise ModelError(
            f"{loaded.name!r} cannot be evaluated on embedded input ({type(error).__name__}: "
            f"{error}); choose another model"
        ) from error
    try:
        model.set_attn_implementation(attention.NAME)
        shared = CausalEngine(model, limit)
        difference = float(np.abs(_probe(shared, weights) - expected).max())
        reason = f"log-probabilities differ by {difference:.2g}"
    except Exception as error:
        difference, reason = np.inf, f"{type(error).__name__}: {error}"
    plain.computed_tokens = 0
    if difference <= AGREEMENT.get(weights.dtype, 5e-3):
        shared.computed_tokens = 0
        return shared
    logger.warning(
        "%s cannot share prefixes between candidates (%s): whole sequences are evaluated "
        "instead, which is slower",
        loaded.name,
        reason,
    )
    model.set_attn_implementation(own_attention)
    return plain


def _probe(engine: Engine, weights: torch.Tensor) -> FloatArray:
    """Scores of a small made-up request that exercises prefixes, padding and longer choices."""
    rng = np.random.default_rng(0)
    top = min(len(weights), 1000)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(3, top, count))

    slot = SoftSlot("probe")
    prompts = [EncodedPrompt((), (draw(size), slot, draw(2)), ()) for size in (9, 4)]
    choices = [draw(1), draw(3), draw(2)]
    embeddings = engine.embeddings(torch.tensor([draw(2), draw(2)], device=weights.device))
    soft = SoftTokens(embeddings.to(weights.dtype), {"probe": 0}, {"probe": 2})
    return engine.score(prompts, choices, Candidates(soft), 0).label_logprobs
