"""Which engine evaluates a model: the fastest that answers as the model itself does.

Each is tried on a made-up request, whose answers the model gives to the same words as token ids
(:mod:`.proving`). Masked and sequence-to-sequence models have one engine, which takes prefixes
where these prove themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeAlias, TypeVar

import numpy as np

from blackbox_delta.backends.local import attention
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.backends.local.candidates import Candidates, PrefixOffsets
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.decoder_fronts import DecoderFronts
from blackbox_delta.backends.local.fronts import Fronts
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.backends.local.plain import PlainEngine
from blackbox_delta.backends.local.proving import Trial, advice, agreement
from blackbox_delta.backends.local.reading import trunk_of
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
from blackbox_delta.errors import ModelError
from blackbox_delta.types import FloatArray

logger = logging.getLogger(__name__)

Engine: TypeAlias = CausalEngine | PlainEngine
AnyEngine = TypeVar("AnyEngine", CausalEngine, PlainEngine)


def choose_engine(loaded: LoadedModel, limit: MemoryLimit) -> Engine:
    """The fastest engine that answers right on this model.

    Raises:
        ModelError: None does, or a masked model's tokenizer has no mask.
    """
    engine = _causal(loaded, limit) if loaded.kind == "causal" else _whole(loaded, limit)
    engine.lower_layers.proof = partial(_stays, loaded, engine)
    return engine


#: Ways of feeding a model, by whether it is given token ids, and takes anything in slots then.
_WAYS = ((False, True), (True, True), (True, False))


def _causal(loaded: LoadedModel, limit: MemoryLimit) -> Engine:
    """For a causal model: the engine that shares prefixes, or else the plain one."""
    model, reasons = loaded.model, []
    trials = {True: Trial(loaded)}
    own_attention = model.config._attn_implementation
    for by_ids, slots in _WAYS:
        trial = trials.get(slots) or Trial(loaded, slots=slots)
        ways: dict[str, Any] = {"by_ids": by_ids, "slots": slots}
        shared, reason = _tried(
            partial(_sharing, model, limit, **ways), trial.difference, trial.tolerance
        )
        if shared is not None:
            shared.takes_prefixes = _alike(shared)
            return shared
        model.set_attn_implementation(own_attention)
        plain, objection = _tried(
            partial(PlainEngine, model, loaded.kind, limit, **ways),
            trial.difference,
            trial.tolerance,
        )
        if plain is not None:
            logger.warning(
                "%s cannot share prefixes between candidates (%s): whole sequences are evaluated "
                "instead, which is slower",
                loaded.name,
                reason,
            )
            return plain
        reasons.append(objection)
    raise _unusable(loaded, reasons)


def _sharing(model: Any, limit: MemoryLimit, *, by_ids: bool, slots: bool) -> CausalEngine:
    """The engine that shares prefixes; the model's attention is ours from here on."""
    model.set_attn_implementation(attention.NAME)
    return CausalEngine(model, limit, by_ids=by_ids, slots=slots)


def _alike(engine: CausalEngine) -> bool:
    """Whether all layers keep keys and values of one shape, as prefixes must have."""
    weight = engine.embeddings.weight
    nothing = Candidates(SoftTokens.of(None, weight.shape[1], weight.dtype, weight.device))
    kept = engine.passes.prefixes([np.array(_drawn(engine, 2))], nothing)
    engine.computed_tokens = 0
    return len({each.shape for each in (*kept.keys, *kept.values)}) == 1


def _whole(loaded: LoadedModel, limit: MemoryLimit) -> PlainEngine:
    """For a masked or sequence-to-sequence model."""
    masked, reasons = loaded.kind == "masked", []
    mask = loaded.tokenizer.mask_token_id if masked else None
    if masked and mask is None:
        raise ModelError(f"the tokenizer of {loaded.name!r} has no mask token")
    trials = {True: Trial(loaded, mask)}
    for pads, (by_ids, slots) in product((True, False), _WAYS):
        make = partial(
            PlainEngine,
            loaded.model,
            loaded.kind,
            limit,
            mask,
            by_ids=by_ids,
            pads=pads,
            slots=slots,
        )
        if slots not in trials:
            trials[slots] = Trial(loaded, mask, slots=slots)
        trial = trials[slots]
        engine, reason = _tried(make, trial.difference, trial.tolerance)
        if engine is not None:
            return _with_fronts(loaded, engine, mask, make, by_ids=by_ids)
        reasons.append(reason)
    raise _unusable(loaded, reasons)


def _tried(
    make: Callable[[], AnyEngine], proof: Callable[[Any], float], tolerance: float
) -> tuple[AnyEngine | None, str]:
    """An engine if its answers are right, or else what speaks against it.

    Args:
        make: Makes it.
        proof: How far its log-probabilities are from what they must be.
        tolerance: How far they may be.
    """
    try:
        engine = make()
        try:
            difference = proof(engine)
        finally:
            engine.release()
            engine.computed_tokens = 0
    except Exception as error:  # an unknown architecture may fail in any way
        return None, _told(error)
    if difference <= tolerance:
        return engine, ""
    return None, f"log-probabilities differ by {difference:.2g}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _unusable(loaded: LoadedModel, reasons: Sequence[str]) -> ModelError:
    return ModelError(
        f"{loaded.name!r} cannot be used: its answers are not those that it gives to the same "
        f"words as token ids, one text at a time ({'; '.join(dict.fromkeys(reasons))}); "
        f"{advice(loaded.model)}"
    )


def _with_fronts(
    loaded: LoadedModel,
    engine: PlainEngine,
    mask: int | None,
    make: Callable[..., PlainEngine],
    *,
    by_ids: bool,
) -> PlainEngine:
    """The engine with prefixes, if on this model they do what they must; else as it is.

    Args:
        loaded: A masked or sequence-to-sequence model.
        engine: What evaluates it.
        mask: Id of the mask (masked models).
        make: Makes such an engine, with what puts prefixes in front.
        by_ids: Whether the model is given token ids.
    """
    fronts: Fronts | DecoderFronts
    if mask is None:
        fronts, proof = DecoderFronts(loaded.model, by_ids=by_ids), _continued
    else:
        trunk = trunk_of(loaded.model)
        fronts = Fronts(loaded.model, trunk, by_ids=by_ids)
        proof = partial(_doubled, mask=mask)
    fronted, reason = _tried(partial(make, fronts=fronts), proof, agreement(loaded.model))
    if fronted is not None:
        return fronted
    logger.info("%s takes no prefixes (%s)", loaded.name, reason)
    return engine


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
        difference, reason = np.inf, _told(error)
    engine.computed_tokens = computed
    if difference <= agreement(loaded.model):
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
    # What the other prompt is answered does change: no text of its own is in front of it.
    return float(np.abs(doubled - alone)[..., 0].max())


def _continued(engine: PlainEngine) -> float:
    """How much the answers change where a decoder's first words are a prefix: not at all.

    That holds where the encoder reads the words of the prefix. What the longer text is answered
    counts as well, of every row: NLLB-MoE's routers go by padding as if there were no prefix, and
    so take other rows' tokens for it.
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
    """What two prompts are answered behind a prefix, (2, 3, 2): a text at a time, and together.

    Three candidates that are the same fill the batch, the shorter text padded beside the longer.
    """
    weight = engine.embeddings.weight
    nothing = SoftTokens.of(None, weight.shape[1], weight.dtype, weight.device, count=3)
    candidates = Candidates(nothing, prefix=PrefixOffsets(words))
    each, together = (
        [engine.score(some, [(choice,)], candidates, 0).label_logprobs[..., 0] for some in batches]
        for batches in ([[prompt] for prompt in prompts], [prompts])
    )
    return np.stack([np.concatenate(each, axis=1), *together])
