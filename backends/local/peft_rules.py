"""At which modules PEFT's LoRA does not act as it is told to."""

from __future__ import annotations

from collections.abc import Sequence

# Read off peft 0.21: tuners_utils.py and utils/transformers_weight_conversion.py.
#: Model types, and ends of names, that it refuses.
_MAMBA = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
_REFUSED = frozenset({"out_proj", "conv1d"})
#: Ends of names that it takes for the experts' fused matrices, in models whose experts were renamed
#: as those of one of these; what else is called so, in dense layers or shared experts, is lost.
_EXPERTS = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}


def lora_objection(model_type: str, modules: Sequence[str]) -> str | None:
    """What speaks against a LoRA at these modules; see :class:`.types.OpenModel`.

    Args:
        model_type: transformers' name of the architecture.
        modules: Their names.
    """
    for names, why in (
        (_REFUSED if model_type in _MAMBA else (), "PEFT lets no LoRA act at {} of Mamba's kin"),
        (_EXPERTS.get(_renamed_as(model_type), ()), "PEFT takes {} for the experts' own"),
    ):
        for module in modules:
            if module.rpartition(".")[2] in names:
                return why.format(module)
    return None


def _renamed_as(model_type: str) -> str:
    """The architecture as which transformers renames this one's weights when it reads them."""
    try:
        from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN as PATTERNS
    except ImportError:  # an inner table; where it is gone, none is renamed by it
        return ""
    return str({**PATTERNS, "mixtral": "mixtral"}.get(model_type, ""))
