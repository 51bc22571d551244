"""How a gradient method opens the model: plain transformers in fp32, every weight frozen."""

from __future__ import annotations

import torch

from blackbox_delta.backends.local import loading
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.errors import UnsupportedError


def open_causal(name: str) -> LoadedModel:
    """The model by the name a local backend knows it by, on CUDA where there is one.

    It keeps the attention that transformers chooses, and stays in evaluation mode: no dropout.

    Raises:
        ModelError: It cannot be found or loaded.
        UnsupportedError: It is no causal language model.
    """
    loaded = loading.load(name, torch.float32, loading.choose_device(None))
    if loaded.kind != "causal":
        raise UnsupportedError(
            f"the gradient methods train causal language models, and {name!r} is a {loaded.kind} "
            "one; leave them out of the comparison, or take a causal model"
        )
    loaded.model.requires_grad_(False)
    return loaded
