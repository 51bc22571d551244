"""What is trained: one function a method, each a frozen model in and named parameters out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import safetensors.torch
import torch
from torch import nn

from blackbox_delta.backends.prompt_encoder import Ids

#: Virtual tokens of prefix and prompt tuning.
VIRTUAL_TOKENS = 10


@dataclass(frozen=True)
class Adapted:
    """A model made ready for training.

    Attributes:
        model: What is called.
        base: The transformers model in it.
        parameters: What is trained, by name; nothing else requires a gradient.
        shift: Tokens that a call puts in front of the sequence.
        artifact_bytes: What must be kept beside the model, as safetensors.
    """

    model: Any
    base: Any
    parameters: dict[str, nn.Parameter]
    shift: int
    artifact_bytes: int

    @property
    def trainable(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())


#: From a frozen model and the template's own words.
Adapt = Callable[[Any, Ids], Adapted]


def full(model: Any, _frame: Ids) -> Adapted:
    """Every weight; tied ones count once."""
    model.requires_grad_(True)
    return _in_place(model, dict(model.named_parameters()))


def lora(model: Any, _frame: Ids) -> Adapted:
    """LoRA (Hu et al., 2022, arXiv 2106.09685): r = 8, α = 16, on all linear layers but the head.

    PEFT draws A from torch's global generator, which the caller seeds.
    """
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"
    )
    return _wrapped(peft.get_peft_model(model, config), shift=0)


def prefix(model: Any, frame: Ids) -> Adapted:
    """Prefix tuning (Li & Liang, 2021, arXiv 2101.00190): keys and values of 10 tokens a layer.

    They start as those of the template's own words: from random ones, which PEFT draws, a model
    of this size does not recover within a few epochs. No reparametrisation.
    """
    words = torch.tensor([_fill(frame)], device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        cache = model(input_ids=words, use_cache=True).past_key_values
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    wrapped = peft.get_peft_model(model, config)
    peft.initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
    return _wrapped(wrapped, shift=0)


def prompt(model: Any, frame: Ids) -> Adapted:
    """Prompt tuning (Lester et al., 2021, arXiv 2104.08691): 10 embeddings before the prompt.

    They start as those of the template's own words.
    """
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    wrapped: Any = peft.get_peft_model(model, config)
    words = torch.tensor(_fill(frame), device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        start = model.get_input_embeddings()(words)
        wrapped.prompt_encoder["default"].embedding.weight.copy_(start)
    return _wrapped(wrapped, shift=VIRTUAL_TOKENS)


def bitfit(model: Any, _frame: Ids) -> Adapted:
    """BitFit (Ben Zaken et al., 2022, arXiv 2106.10199): offsets only.

    A linear layer (but the head) or a norm that has no offset gets one of zeros for the run.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if module is head or getattr(module, "bias", None) is not None:
            continue
        if isinstance(module, nn.Linear):
            module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0]))
        elif type(module).__name__.endswith("Norm") and hasattr(module, "weight"):
            # Not "bias": a norm that is built without one may know that name, and add it itself.
            module.register_parameter("offset", nn.Parameter(torch.zeros_like(module.weight)))
            module.register_forward_hook(_add_offset)
    offsets = {
        name: parameter.requires_grad_(True)
        for name, parameter in model.named_parameters()
        if name.endswith((".bias", ".offset"))
    }
    return _in_place(model, offsets)


ADAPTATIONS: dict[str, Adapt] = {
    "full": full,
    "lora": lora,
    "prefix": prefix,
    "prompt": prompt,
    "bitfit": bitfit,
}


def adapt(kind: str, model: Any, frame: Ids, seed: int) -> Adapted:
    """A frozen model made ready for training.

    Args:
        kind: One of :data:`ADAPTATIONS`.
        model: A causal model without gradients; it is changed in place.
        frame: The template's own words.
        seed: What is drawn follows from it; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers by a name that it has given up.
        warnings.filterwarnings("ignore", r".*is_gradient_checkpointing", FutureWarning)
        torch.manual_seed(seed)
        return ADAPTATIONS[kind](model, frame)


def _fill(frame: Ids) -> list[int]:
    """As many of the template's words as there are virtual tokens, over again where too few."""
    return [frame[place % len(frame)] for place in range(VIRTUAL_TOKENS)]


def _add_offset(module: Any, _inputs: Any, output: Any) -> Any:
    return output + module.offset


def _wrapped(wrapped: Any, shift: int) -> Adapted:
    """A model that PEFT has wrapped; evaluation mode, for its layers' sake too."""
    wrapped.eval()
    parameters = {name: each for name, each in wrapped.named_parameters() if each.requires_grad}
    kept = peft.get_peft_model_state_dict(wrapped)
    # As PEFT's save_pretrained writes it.
    size = len(safetensors.torch.save(kept, {"format": "pt"}))
    return Adapted(wrapped, wrapped.get_base_model(), parameters, shift, size)


def _in_place(model: Any, parameters: dict[str, nn.Parameter]) -> Adapted:
    """A model that stays what it is, some of its weights trained in fp32."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    return Adapted(model, model, parameters, 0, size)
