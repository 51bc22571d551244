"""A local transformers model as a backend."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends._assigned import check_assignment
from blackbox_delta.backends.local import loading
from blackbox_delta.backends.local.batching import Footprint, MemoryLimit
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.checking import check_delta
from blackbox_delta.backends.local.context import context_of
from blackbox_delta.backends.local.decoder_fronts import DecoderFronts
from blackbox_delta.backends.local.embeddings import LocalEmbeddings
from blackbox_delta.backends.local.engines import choose_engine
from blackbox_delta.backends.local.fingerprints import fingerprint
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.lent import Lent
from blackbox_delta.backends.local.measuring import measure
from blackbox_delta.backends.local.merging import merged
from blackbox_delta.backends.local.peft_rules import lora_objection
from blackbox_delta.backends.local.plain import PlainEngine
from blackbox_delta.backends.local.terms import Factors
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, PromptEncoder, length
from blackbox_delta.errors import ConfigError, ExportError, ModelError, UnsupportedError
from blackbox_delta.geometry import Geometry
from blackbox_delta.types import (
    SOFT_PROMPT,
    Capabilities,
    DeltaBatch,
    FloatArray,
    IntArray,
    Json,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    SoftSlot,
    Usage,
)

#: Bytes that the token ids of prompts may take; a search asks about the same ones again and again.
_MOST_ENCODED = 1 << 27


class LocalBackend:
    """A causal, masked or sequence-to-sequence model on this machine's CPU or GPU.

    Threads may share it; one request goes through at a time.

    Args:
        model: Hub id, folder, GGUF file, or ``pkg:NAME`` for the model inside an installed
            distribution.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; by default fp32 on a CPU, bf16 on a GPU.
        max_length: Longest prompt in tokens; by default the model's context, with LongRoPE the
            part of it within which all positions are turned alike.

    Raises:
        ModelError: The model cannot be found or loaded.
        ConfigError: No such device or precision, or no room for a prompt.
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
        """Wraps a model that is loaded already; :meth:`close` hands it back unchanged.

        Until then the model serves this backend alone.

        Raises:
            ModelError: It is no language model of a known kind, serves another backend, or is not
                whole in memory.
            ConfigError: There is no room for a prompt.
        """
        backend = cls.__new__(cls)
        kind = loading.model_kind(model.config, [type(model).__name__], name)
        if model.get_output_embeddings() is None:
            raise ModelError(f"{name!r} is a {type(model).__name__} without a language-model head")
        backend._set_up(loading.LoadedModel(name, kind, model, tokenizer), max_length)
        return backend

    def _set_up(self, loaded: loading.LoadedModel, max_length: int | None) -> None:
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length = {max_length} leaves no room for a prompt")
        loading.check_unadapted(loaded)
        self._loaded = loaded
        self._model = loaded.model
        # Once: when it is closed, or with the last reference to a backend that never was.
        self._hand_back = weakref.finalize(self, Lent(self._model, loaded.name).hand_back)
        self._hand_back.atexit = False
        self._closed = False
        # Passes change what the model's modules do, for as long as they take.
        self._turn = threading.RLock()
        try:
            loading.wake(loaded)
            self._open(loaded, max_length)
        except BaseException:
            self._hand_back()
            raise

    @torch.inference_mode()
    def _open(self, loaded: loading.LoadedModel, max_length: int | None) -> None:
        self._weights = weights = self._model.get_input_embeddings().weight
        self._dtype, self._device = weights.dtype, weights.device
        self._encoder = PromptEncoder(
            loaded.tokenizer,
            loaded.kind,
            min(max_length or 1 << 30, context_of(self._model, loaded.tokenizer)),
            _decoder_start(self._model) if loaded.kind == "seq2seq" else None,
            len(weights),
        )
        self._table = LocalEmbeddings(self._model, self._encoder, self._turn)
        footprint = Footprint.of(
            self._model.config, self._table.vocabulary_size, weights.element_size()
        )
        self._limit = MemoryLimit.sensible(footprint, self._device)
        self._fingerprint = fingerprint(self._model, loaded.tokenizer)
        self._factors = Factors(self._dtype)
        self._encoded = Kept(_MOST_ENCODED)
        self._engine = choose_engine(loaded, self._limit)
        self._geometry: Geometry | None = None

    # ------------------------------------------------------------------ the contract

    @property
    def name(self) -> str:
        """The model as the user named it; a folder or file by its absolute path."""
        return self._loaded.name

    @property
    def fingerprint(self) -> str:
        """Identifies weights, configuration and tokenizer."""
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
        """Deltas of every kind that its engine can apply, and as many top tokens as there are."""
        return Capabilities(
            deltas=self._engine.deltas,
            decoder_slot=self._loaded.kind == "seq2seq",
            text_after_answer=self._loaded.kind == "masked",
            max_top_k=self._table.vocabulary_size,
            assigns=True,
            max_length=self._encoder.max_length,
        )

    @property
    def embedding_table(self) -> LocalEmbeddings:
        """The input embeddings."""
        return self._table

    @property
    @torch.inference_mode()
    def geometry(self) -> Geometry:
        """Modules and shapes; measured when it is first asked for."""
        with self._turn:
            self._check_open()
            if self._geometry is None:
                context = self._encoder.max_length
                self._geometry = measure(self._model, self._engine, context)
            return self._geometry

    @property
    def address(self) -> Json:
        """Nothing: the name says it all."""
        return {}

    @torch.inference_mode()
    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """Scores of shape (λ, n, c); see :class:`blackbox_delta.types.Backend`."""
        del sink  # the whole reply comes at once
        with self._turn:
            return self._score(request)

    def _score(self, request: ScoreRequest) -> Scores:
        began = time.perf_counter()
        self._check(request)
        candidates = self._candidates(request.delta)
        choices = self._encoder.choices(request.choices)
        prompts = self._encode(request)
        already = self._engine.computed_tokens
        readings = self._engine.score(
            prompts, choices, candidates, request.top_k, request.assignment
        )
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
        slots = {} if request.delta is None else request.delta.slots
        with self._turn:
            encoded = self._encode(request)
        return np.array([length(prompt.pieces, slots) for prompt in encoded], dtype=np.int64)

    @torch.inference_mode()
    def keys_and_values(
        self, token_ids: Sequence[int], slot: DeltaBatch | None = None
    ) -> FloatArray:
        """Shape (layers, 2, kv_heads, tokens, head_size); see :class:`.types.OpenModel`.

        Raises:
            ModelError: The backend has been closed.
            UnsupportedError: The model reads none from a cache.
        """
        engine = self._engine
        with self._turn:
            self._check(ScoreRequest((), (), slot))
            if isinstance(engine, CausalEngine) and engine.takes_prefixes:
                candidates = self._candidates(slot)
                soft = [SoftSlot(name) for name in candidates.soft.first]
                row = candidates.soft.codes([tuple(token_ids), *soft])
                kept = engine.passes.prefixes([row], candidates)
            elif (
                slot is None
                and isinstance(engine, PlainEngine)
                and isinstance(engine.fronts, DecoderFronts)
            ):
                kept = engine.fronts.alone(np.array([token_ids], dtype=np.int64))
            else:
                raise UnsupportedError(
                    f"{self.name} reads no keys and values from a cache, alike in all layers, as "
                    "most causal models and decoders do"
                )
        both = [torch.stack(pair) for pair in zip(kept.keys, kept.values, strict=True)]
        told: FloatArray = torch.stack(both)[:, :, 0].float().cpu().numpy()
        return told

    @torch.inference_mode()
    def singular_factors(self, module: str, rank: int) -> tuple[FloatArray, FloatArray]:
        """U Σ (outputs, r) and V (r, inputs); see :class:`.types.OpenModel`.

        Raises:
            ModelError: The backend has been closed.
        """
        with self._turn:
            self._check_open()
            found = self._factors.of(self._model.get_submodule(module), rank)
        left, right = (found[name].T.float().cpu().numpy() for name in ("left", "right"))
        return left, right

    @property
    def takes_embeddings(self) -> bool:
        """Whether sequences go in as embeddings here; see :class:`.types.OpenModel`."""
        return not self._engine.by_ids

    def is_torch_linear(self, module: str) -> bool:
        """Whether a module is a ``torch.nn.Linear``; see :class:`.types.OpenModel`."""
        return isinstance(self._model.get_submodule(module), torch.nn.Linear)

    def lora_objection(self, modules: Sequence[str]) -> str | None:
        """Why PEFT's LoRA would not act there; see :class:`.types.OpenModel`."""
        return lora_objection(str(self._model.config.model_type), modules)

    @torch.inference_mode()
    def save_merged(self, delta: DeltaBatch, folder: Path) -> None:
        """Writes a folder that ``from_pretrained`` loads; see :class:`.types.OpenModel`.

        Raises:
            ModelError: The backend has been closed.
            UnsupportedError: The model does not take such a delta.
            ExportError: The delta cannot be merged, or the model not be written.
        """
        with self._turn:
            self._check(ScoreRequest((), (), delta))
            changed = merged(self._model, delta.parts, self._factors)
            self._save(changed, folder)

    def close(self) -> None:
        """Hands a wrapped model back as it was; the backend answers no further request."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._hand_back()
            self._engine.release()
            self._encoded.clear()
            self._factors.clear()

    # ------------------------------------------------------------------ parts

    def _save(self, changed: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Writes the model with some of its parameters changed."""
        try:
            with loading.quiet(), loading.sound_generation(self._model):
                self._model.save_pretrained(
                    folder, state_dict={**self._model.state_dict(), **changed}
                )
                self._loaded.tokenizer.save_pretrained(folder)
        except Exception as error:  # what models refuse, and what disks do
            raise ExportError(f"{self.name} cannot be written into {folder}: {error}") from error

    def _candidates(self, delta: DeltaBatch | None) -> Candidates:
        hidden = self._table.hidden_size
        return Candidates.of(self._model, delta, hidden, self._weights, self._factors)

    def _check(self, request: ScoreRequest) -> None:
        self._check_open()
        check_assignment(request, self.name)
        if request.delta is not None:
            taken = self.capabilities.deltas
            inside = taken.intersection(request.delta.kinds) - {SOFT_PROMPT}
            geometry = self.geometry if inside else None
            table = self._table.vocabulary_size, self._table.hidden_size
            check_delta(request.delta, taken, table, geometry)
        if request.top_k < 0:
            raise UnsupportedError(f"top_k={request.top_k} is no number of tokens; 0 asks for none")
        if request.top_k > self.capabilities.max_top_k:
            raise UnsupportedError(
                f"top_k={request.top_k} is more than the vocabulary's {self.capabilities.max_top_k}"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ModelError(f"the model {self.name!r} has been closed; open it again")

    def _encode(self, request: ScoreRequest) -> list[EncodedPrompt]:
        slots = {} if request.delta is None else request.delta.slots
        room = max(len(ids) for ids in self._encoder.choices(request.choices))
        # A prefix stands before everything, in the same context.
        room += sum(len(part.token_ids) for part in request.delta.parts) if request.delta else 0
        return [self._encode_one(prompt, slots, room) for prompt in request.prompts]

    def _encode_one(self, prompt: Prompt, slots: dict[str, int], room: int) -> EncodedPrompt:
        key = (prompt, tuple(sorted(slots.items())), room)
        return self._encoded.get(key, lambda: self._encoder.encode(prompt, slots, room))


def _decoder_start(model: Any) -> int:
    """The token that opens every decoder sequence."""
    for config in (model.config, getattr(model, "generation_config", None)):
        start = getattr(config, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    raise ModelError(
        "the model's configuration names no decoder_start_token_id, so that nobody knows how its "
        "answers begin; set it in config.json (for T5 it is the padding token)"
    )
