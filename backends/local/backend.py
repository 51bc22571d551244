"""A local transformers model as a backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local import attention, loading
from blackbox_delta.backends.local.batching import Footprint, MemoryLimit
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.plain import PlainEngine
from blackbox_delta.backends.local.tokens import EncodedPrompt, PromptEncoder, length
from blackbox_delta.errors import ModelError, UnsupportedError
from blackbox_delta.types import (
    Capabilities,
    FloatArray,
    IntArray,
    Prompt,
    ScoreRequest,
    Scores,
    SoftSlot,
    Usage,
)

logger = logging.getLogger(__name__)

#: Largest difference in log-probability between the two engines that rounding explains.
AGREEMENT = {torch.float32: 5e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


class LocalEmbeddings:
    """The input embeddings of a local model."""

    def __init__(self, model: Any, encoder: PromptEncoder) -> None:
        self._module = model.get_input_embeddings()
        self._encoder = encoder
        self._std: float | None = None

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        return int(self._module.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        return int(self._module.weight.shape[1])

    @property
    def std(self) -> float:
        """Standard deviation over the entries of up to 8,192 evenly spaced rows."""
        if self._std is None:
            spaced = np.linspace(0, self.vocabulary_size - 1, min(8192, self.vocabulary_size))
            self._std = float(self.rows(spaced.astype(int).tolist()).std(dtype=np.float64))
        return self._std

    @torch.inference_mode()
    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), hidden)."""
        ids = torch.tensor(list(token_ids), device=self._module.weight.device)
        rows: FloatArray = self._module(ids).float().cpu().numpy()
        return rows

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens."""
        return self._encoder.continuation(text)


class LocalBackend:
    """A causal, masked or sequence-to-sequence model on this machine's CPU or GPU.

    Args:
        model: Hub id, folder, GGUF file, or ``pkg:NAME`` for the model inside an installed
            distribution.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; by default fp32 on a CPU, bf16 on a GPU.
        max_length: Longest prompt in tokens; by default the model's context.

    Raises:
        ModelError: The model cannot be found or loaded.
        ConfigError: No such device or precision.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
    ) -> None:
        where = loading.choose_device(device)
        precision = loading.choose_dtype(dtype, where)
        self._set_up(loading.load(model, precision, where), max_length)

    @classmethod
    def from_objects(
        cls, model: Any, tokenizer: Any, *, name: str, max_length: int | None = None
    ) -> LocalBackend:
        """Wraps a model that is loaded already; :meth:`close` hands it back unchanged."""
        backend = cls.__new__(cls)
        kind = loading.model_kind(model.config, name)
        backend._set_up(loading.LoadedModel(name, kind, model.eval(), tokenizer), max_length)
        return backend

    @torch.inference_mode()
    def _set_up(self, loaded: loading.LoadedModel, max_length: int | None) -> None:
        self._loaded = loaded
        self._model = loaded.model
        weights = self._model.get_input_embeddings().weight
        self._dtype, self._device = weights.dtype, weights.device
        self._encoder = PromptEncoder(
            loaded.tokenizer,
            loaded.kind,
            min(max_length or 1 << 30, _context(self._model.config, loaded.tokenizer)),
            getattr(self._model.config, "decoder_start_token_id", None),
        )
        self._table = LocalEmbeddings(self._model, self._encoder)
        footprint = Footprint.of(
            self._model.config, self._table.vocabulary_size, weights.element_size()
        )
        self._limit = MemoryLimit.sensible(footprint, self._device)
        self._fingerprint = loading.fingerprint(self._model, loaded.tokenizer)
        self._encoded: dict[tuple[Any, ...], EncodedPrompt] = {}
        self._own_attention = getattr(self._model.config, "_attn_implementation", None)
        self._engine = self._choose_engine()

    # ------------------------------------------------------------------ the contract

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self._loaded.name

    @property
    def fingerprint(self) -> str:
        """Identifies weights and tokenizer."""
        return self._fingerprint

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines a reply."""
        return {
            "fingerprint": self._fingerprint,
            "dtype": str(self._dtype),
            "device": self._device.type,
            "torch": str(torch.__version__),
            "engine": type(self._engine).__name__,
        }

    @property
    def capabilities(self) -> Capabilities:
        """Soft prompts, and as many top tokens as there are."""
        return Capabilities(
            deltas=frozenset({"soft-prompt"}),
            decoder_slot=self._loaded.kind == "seq2seq",
            text_after_answer=self._loaded.kind == "masked",
            max_top_k=self._table.vocabulary_size,
        )

    @property
    def embedding_table(self) -> LocalEmbeddings:
        """The input embeddings."""
        return self._table

    @torch.inference_mode()
    def score(self, request: ScoreRequest) -> Scores:
        """Scores of shape (λ, n, c); see :class:`blackbox_delta.types.Backend`."""
        began = time.perf_counter()
        self._check(request)
        soft = SoftTokens.of(request.delta, self._table.hidden_size, self._dtype, self._device)
        choices = self._encoder.choices(request.choices)
        prompts = self._encode(request)
        already = self._engine.computed_tokens
        readings = self._engine.score(prompts, choices, soft, request.top_k)
        readings.check()
        tokens = request.candidates * int(self.count_tokens(request).sum())
        usage = Usage(
            queries=request.queries,
            tokens=tokens,
            computed_tokens=self._engine.computed_tokens - already,
            seconds=time.perf_counter() - began,
        )
        return Scores(readings.label_logprobs, readings.top_ids, readings.top_logprobs, usage)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens (n,), soft tokens included."""
        slots = _slot_lengths(request)
        return np.array([length(p.pieces, slots) for p in self._encode(request)], dtype=np.int64)

    def close(self) -> None:
        """Frees the model, or hands a wrapped one back as it was."""
        if self._own_attention is not None and isinstance(self._engine, CausalEngine):
            self._model.set_attn_implementation(self._own_attention)
        self._encoded.clear()

    # ------------------------------------------------------------------ parts

    def _check(self, request: ScoreRequest) -> None:
        if request.delta is not None and request.delta.kind not in self.capabilities.deltas:
            raise UnsupportedError(
                f"a local model takes {', '.join(sorted(self.capabilities.deltas))} deltas, "
                f"not {request.delta.kind!r}"
            )
        if request.top_k > self.capabilities.max_top_k:
            raise UnsupportedError(
                f"top_k={request.top_k} is more than the vocabulary's {self.capabilities.max_top_k}"
            )

    def _encode(self, request: ScoreRequest) -> list[EncodedPrompt]:
        slots = _slot_lengths(request)
        room = max(len(ids) for ids in self._encoder.choices(request.choices))
        return [self._encode_one(prompt, slots, room) for prompt in request.prompts]

    def _encode_one(self, prompt: Prompt, slots: dict[str, int], room: int) -> EncodedPrompt:
        key = (prompt, tuple(sorted(slots.items())), room)
        if key not in self._encoded:
            if len(self._encoded) > 50_000:
                self._encoded.clear()
            self._encoded[key] = self._encoder.encode(prompt, slots, room)
        return self._encoded[key]

    def _choose_engine(self) -> CausalEngine | PlainEngine:
        kind = self._loaded.kind
        if kind == "masked":
            mask = self._loaded.tokenizer.mask_token_id
            if mask is None:
                raise ModelError(f"the tokenizer of {self.name!r} has no mask token")
            return PlainEngine(self._model, kind, self._limit, mask)
        plain = PlainEngine(self._model, kind, self._limit)
        return plain if kind == "seq2seq" else self._proven_engine(plain)

    def _proven_engine(self, plain: PlainEngine) -> CausalEngine | PlainEngine:
        """The shared-prefix engine, if on this model it answers as plain evaluation does."""
        try:
            expected = _probe(plain, self._table.vocabulary_size, self._dtype, self._device)
            self._model.set_attn_implementation(attention.NAME)
            shared = CausalEngine(self._model, self._limit)
            found = _probe(shared, self._table.vocabulary_size, self._dtype, self._device)
            difference = float(np.abs(found - expected).max())
        except Exception as error:  # an unknown architecture may fail in any way
            difference, reason = np.inf, f"{type(error).__name__}: {error}"
        else:
            reason = f"log-probabilities differ by {difference:.2g}"
        if difference <= AGREEMENT.get(self._dtype, 0.5):
            shared.computed_tokens = 0
            return shared
        logger.warning(
            "%s cannot share prefixes between candidates (%s): whole sequences are evaluated "
            "instead, which is slower",
            self.name,
            reason,
        )
        self._model.set_attn_implementation(self._own_attention)
        plain.computed_tokens = 0
        return plain


def _context(config: Any, tokenizer: Any) -> int:
    """The longest sequence that both the model and its tokenizer take."""
    limits = [
        getattr(config, "max_position_embeddings", None),
        getattr(config, "n_positions", None),
    ]
    limits.append(tokenizer.model_max_length)
    known = [limit for limit in limits if limit and limit < 1 << 24]
    return min(known) if known else 1024


def _slot_lengths(request: ScoreRequest) -> dict[str, int]:
    if request.delta is None:
        return {}
    return {name: value.shape[1] for name, value in request.delta.tensors.items()}


def _probe(
    engine: CausalEngine | PlainEngine, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> FloatArray:
    """Scores of a small made-up request that exercises prefixes, padding and longer choices."""
    rng = np.random.default_rng(0)
    top = min(vocabulary, 1000)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(3, top, count))

    slot = SoftSlot("probe")
    prompts = [EncodedPrompt((), (draw(size), slot, draw(2)), ()) for size in (9, 4)]
    choices = [draw(1), draw(3), draw(2)]
    embeddings = engine.embeddings(torch.tensor([draw(2), draw(2)], device=device))
    soft = SoftTokens(embeddings.to(dtype), {"probe": 0}, {"probe": 2})
    return engine.score(prompts, choices, soft, 0).label_logprobs
