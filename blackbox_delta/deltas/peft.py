"""Deltas in the layout of Hugging Face PEFT: an adapter's configuration and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from blackbox_delta.types import FloatArray, Json

#: PEFT wraps a model twice, which its tensors' names show.
OUTER = "base_model.model."
#: The one tensor of what stands before the words.
PROMPT = "prompt_embeddings"
#: Its names for what a model does.
CAUSAL_LM, SEQ_2_SEQ_LM = "CAUSAL_LM", "SEQ_2_SEQ_LM"

SingularFactors: TypeAlias = Callable[[str, int], tuple[FloatArray, FloatArray]]
"""From a module's name and r to U Σ (outputs, r) and V (r, inputs) of its matrix U Σ V."""


@dataclass(frozen=True)
class PeftAdapter:
    """What PEFT loads.

    Attributes:
        config: Of ``adapter_config.json``, but for the model's name; with the task where PEFT needs
            to know it.
        tensors: Of ``adapter_model.safetensors``.
    """

    config: Json
    tensors: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LinearTerm:
    """B A x + b, which a delta adds to what a linear module puts out.

    Attributes:
        down: A (r, inputs).
        up: B (outputs, r).
        offset: b (outputs,); ``None`` for none.
    """

    down: FloatArray
    up: FloatArray
    offset: FloatArray | None = None

    def beside(self, other: LinearTerm) -> LinearTerm:
        """Both at the same module."""
        known = [each for each in (self.offset, other.offset) if each is not None]
        return LinearTerm(
            np.concatenate([self.down, other.down]),
            np.concatenate([self.up, other.up], axis=1),
            np.sum(known, axis=0) if known else None,
        )

    def widened(self, rank: int) -> LinearTerm:
        """The same with zeros up to a rank."""
        more = (0, rank - len(self.down))
        down, up = np.pad(self.down, (more, (0, 0))), np.pad(self.up, ((0, 0), more))
        return LinearTerm(down, up, self.offset)


LinearTerms: TypeAlias = Mapping[str, LinearTerm]
"""Module's name to what a delta adds there."""


def low_rank_adapter(parts: Sequence[LinearTerms]) -> PeftAdapter:
    """What several deltas add to linear modules as one LoRA of PEFT's.

    All modules get the largest rank of any, filled up with zeros: servers take no other.

    Args:
        parts: Those of each delta; some module has a rank of at least one.
    """
    together: dict[str, LinearTerm] = {}
    for part in parts:
        for module, term in part.items():
            known = together.get(module)
            together[module] = term if known is None else known.beside(term)
    rank = max(len(term.down) for term in together.values())
    offsets = any(term.offset is not None for term in together.values())
    config: Json = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(together),
    }
    if offsets:
        config["lora_bias"] = True
    tensors: dict[str, FloatArray] = {}
    for module, term in together.items():
        whole, name = term.widened(rank), f"{OUTER}{module}"
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = whole.down, whole.up
        if offsets:
            none = np.zeros(len(term.up), np.float32)
            tensors[f"{name}.lora_B.bias"] = none if term.offset is None else term.offset
    return PeftAdapter(config, tensors)


def prefix_adapter(whole: FloatArray, task: str) -> PeftAdapter:
    """Keys and values in front of everything as PEFT's prefix tuning.

    Args:
        whole: (layers, 2, kv_heads, tokens, head_size), keys before values, positions applied.
        task: ``"CAUSAL_LM"`` or ``"SEQ_2_SEQ_LM"``.
    """
    parts = 1
    if task == SEQ_2_SEQ_LM:
        # PEFT takes two layers' worth for each layer of a decoder, the second one for its
        # attention to the encoder, and throws that away.
        parts = 2
        whole = np.stack([whole, np.zeros_like(whole)], axis=1).reshape(-1, *whole.shape[1:])
    layers, _, heads, tokens, size = whole.shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": task,
        "num_virtual_tokens": tokens,
        # Of the heads that keep keys and values, as PEFT counts them where heads share these.
        "token_dim": heads * size,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": parts,
        "prefix_projection": False,
    }
    # A row for each token: layer by layer its keys, then its values, head by head.
    rows = whole.transpose(3, 0, 1, 2, 4).reshape(tokens, -1)
    return PeftAdapter(config, {PROMPT: rows.astype(np.float32)})
