"""A model that belongs to somebody else, and is handed back as it was."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch

from blackbox_delta.errors import ModelError

#: Models that serve a backend now.
_TAKEN: WeakSet[torch.nn.Module] = WeakSet()


class Lent:
    """What a model is like before it is used, as far as using it changes that.

    Args:
        model: The model.
        name: What it is called in messages.

    Raises:
        ModelError: It serves another backend, or some of its weights are not in memory.
    """

    def __init__(self, model: Any, name: str) -> None:
        _check_free(model, name)
        self._model = model
        self._attention = getattr(model.config, "_attn_implementation", None)
        self._in_training = [part for part in model.modules() if part.training]
        # BigBird and its kin leave sparse attention for good when they meet a short text.
        self._kinds = [
            (part, part.attention_type)
            for part in model.modules()
            if hasattr(part, "set_attention_type")
        ]
        model.eval()
        _TAKEN.add(model)

    def hand_back(self) -> None:
        """Leaves the model as it was before."""
        if getattr(self._model.config, "_attn_implementation", None) != self._attention:
            self._model.set_attn_implementation(self._attention)
        for part in self._in_training:
            part.training = True
        # Last, for a part whose attention is made anew passes on whether it is in training.
        for part, kind in self._kinds:
            part.set_attention_type(kind)
        _TAKEN.discard(self._model)


def _check_free(model: Any, name: str) -> None:
    if model in _TAKEN:
        raise ModelError(
            f"the model {name!r} serves another open backend; close() that first, or share it"
        )
    absent = [at for at, weights in model.named_parameters() if weights.is_meta]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of {name!r} are not in memory, such as {absent[0]}; load the "
            "model whole, without offloading any of it (device_map)"
        )
