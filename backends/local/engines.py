"""Which engine evaluates a model: the one that shares prefixes, where it proves itself.

Masked and sequence-to-sequence models have one engine, which takes prefixes where these prove
themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch

from blackbox_delta.backends.local import attention
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.backends.local.candidates import Candidates, PrefixOffsets
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.decoder_fronts import DecoderFronts
from blackbox_delta.backends.local.fronts import Fronts
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.backends.local.plain import PlainEngine
from blackbox_delta.backends.local.reading import trunk_of
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
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
    engine = _engine_for(loaded, limit)
    engine.lower_layers.proof = partial(_stays, loaded, engine)
    return engine


def _engine_for(loaded: LoadedModel, limit: MemoryLimit) -> Engine:
    if loaded.kind == "masked":
        mask = loaded.tokenizer.mask_token_id
        if mask is None:
            raise ModelError(f"the tokenizer of {loaded.name!r} has no mask token")
        fronts = Fronts(loaded.model, trunk_of(loaded.model))
        return _with_fronts(loaded, limit, fronts, partial(_doubled, mask=mask), mask)
    if loaded.kind == "seq2seq":
        return _with_fronts(loaded, limit, DecoderFronts(loaded.model), _continued)
    return _proven(loaded, PlainEngine(loaded.model, loaded.kind, limit), limit)


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


def _with_fronts(
    loaded: LoadedModel,
    limit: MemoryLimit,
    fronts: Fronts | DecoderFronts,
    proof: Callable[[PlainEngine], float],
    mask: int | None = None,
) -> PlainEngine:
    """The engine with prefixes, if on this model they do what they must.

    Args:
        loaded: A masked or sequence-to-sequence model.
        limit: What one forward pass may take.
        fronts: Puts prefixes in front.
        proof: How much answers change that must stay the same.
        mask: Id of the mask (masked models).
    """
    engine = PlainEngine(loaded.model, loaded.kind, limit, mask, fronts)
    try:
        difference = proof(engine)
        reason = f"log-probabilities differ by {difference:.2g}"
    except Exception as error:  # an unknown architecture may fail in any way
        difference, reason = np.inf, f"{type(error).__name__}: {error}"
    engine.release()
    engine.computed_tokens = 0
    if difference <= AGREEMENT.get(engine.embeddings.weight.dtype, 5e-3):
        return engine
    logger.info("%s takes no prefixes (%s)", loaded.name, reason)
    return PlainEngine(loaded.model, loaded.kind, limit, mask)


def _stays(loaded: LoadedModel, engine: Engine, untouched: int) -> bool:
    """Whether answers stay the same where the lowest layers compute nothing."""
    weight, tokens, computed = engine.embeddings.weight, _drawn(engine, 16), engine.computed_tokens
    nothing = SoftTokens.of(None, weight.shape[1], weight.dtype, weight.device, count=2)
    texts = (tokens[:9], tokens[:2] + tokens[9:12])
    prompts = [EncodedPrompt((), (text,), ()) for text in texts]
    choices = [tokens[12:13], tokens[13:]]

    def answers(candidates: Candidates) -> FloatArray:
        return engine.score(prompts, choices, candidates, 0).label_logprobs

    expected = answers(Candidates(nothing))
    try:
        # The second time what comes out of these layers is known.
        got = np.stack([answers(Candidates(nothing, untouched=untouched)) for _ in range(2)])
        difference = float(np.abs(got - expected).max())
        reason = f"log-probabilities differ by {difference:.2g}"
    except Exception as error:  # an unknown architecture may fail in any way
        difference, reason = np.inf, f"{type(error).__name__}: {error}"
    engine.computed_tokens = computed
    if difference <= AGREEMENT.get(weight.dtype, 5e-3):
        return True
    logger.info("%s passes all its layers for every candidate (%s)", loaded.name, reason)
    return False


def _doubled(engine: PlainEngine, mask: int) -> float:
    """How much the answers change where a text stands in front of itself, which is not at all.

    Each token then sees every key twice, with the same value: attention's weights are halves of
    what they were, and its outputs the same. That holds for any model whose attention is made of
    keys, values and nothing else.
    """
    tokens = _drawn(engine, 12)
    text = tokens[:6]
    prompts = [EncodedPrompt((), (each,), ()) for each in (text, tokens[2:11])]
    alone = _answers(engine, prompts, (), tokens[11])
    doubled = _answers(engine, prompts, (*text, mask), tokens[11])
    return float(np.abs(doubled - alone).max())


def _continued(engine: PlainEngine) -> float:
    """How much the answers change where a decoder's first words are a prefix: not at all.

    That holds where the encoder reads the words of the prefix.
    """
    tokens = _drawn(engine, 16)
    words, rests = tokens[:6], (tokens[6:11], tokens[6:15])
    whole = [EncodedPrompt((words,), (words + rest,), ()) for rest in rests]
    parted = [EncodedPrompt((words,), (rest,), ()) for rest in rests]
    read = _answers(engine, whole, (), tokens[15])
    continued = _answers(engine, parted, words, tokens[15])
    return float(np.abs(continued - read).max())


def _drawn(engine: Engine, count: int) -> Ids:
    """Tokens of a made-up text."""
    top = min(len(engine.embeddings.weight), 1000)
    return tuple(int(token) for token in np.random.default_rng(0).integers(3, top, count))


def _answers(
    engine: PlainEngine, prompts: Sequence[EncodedPrompt], words: Ids, choice: int
) -> FloatArray:
    """What the first prompt is answered behind a prefix, alone and padded beside a longer one."""
    weight = engine.embeddings.weight
    nothing = SoftTokens.of(None, weight.shape[1], weight.dtype, weight.device)
    candidates = Candidates(nothing, prefix=PrefixOffsets(words))
    answers = [engine.score(prompts[:n], [(choice,)], candidates, 0) for n in (1, 2)]
    return np.array([each.label_logprobs[0, 0, 0] for each in answers])


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
