"""How long a sequence a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: What configurations call the most positions; LED has a number each for its encoder and decoder.
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)
#: Where nothing says how long.
_UNKNOWN = 1024
#: Models whose positions have no end say -1, tokenizers a number beyond all memory.
_ENDLESS = 1 << 24


def context_of(model: Any, tokenizer: Any) -> int:
    """The longest sequence in tokens that both the model and its tokenizer take."""
    config = model.config.get_text_config()
    limits = [
        *(getattr(config, name, None) for name in _NAMES),
        getattr(model.config, "n_positions", None),
        tokenizer.model_max_length,
        *_before_long_rope(config),
    ]
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    table: Any = getattr(embeddings, "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    if padding is not None:
        # RoBERTa and its kin count positions from behind the padding's.
        limits.append(len(table.weight) - padding - 1)
    return min((limit for limit in limits if limit and 0 < limit < _ENDLESS), default=_UNKNOWN)


def _before_long_rope(config: Any) -> Iterator[int | None]:
    """Where LongRoPE turns to its other angles.

    Beyond it transformers goes by the longest sequence of a batch, which changes what the others
    are answered, and what a shared beginning's keys are.
    """
    given = getattr(config, "rope_parameters", None) or {}
    # Some models have a set for each type of layer.
    for each in (given, *(own for own in given.values() if isinstance(own, Mapping))):
        if each.get("rope_type") == "longrope":
            yield each.get("original_max_position_embeddings")
