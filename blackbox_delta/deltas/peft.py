"""Deltas in the layout of Hugging Face PEFT: an adapter's configuration and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blackbox_delta.types import FloatArray, Json

#: PEFT wraps a model twice, which its tensors' names show.
OUTER = "base_model.model."
#: The one tensor of what stands before the words.
PROMPT = "prompt_embeddings"
#: Its names for what a model does.
CAUSAL_LM, SEQ_2_SEQ_LM = "CAUSAL_LM", "SEQ_2_SEQ_LM"


@dataclass(frozen=True)
class PeftAdapter:
    """What PEFT loads.

    Attributes:
        config: Of ``adapter_config.json``, but for the model's name; with the task where PEFT needs
            to know it.
        tensors: Of ``adapter_model.safetensors``.
    """

    config: Json
    tensors: Mapping[str, FloatArray]
