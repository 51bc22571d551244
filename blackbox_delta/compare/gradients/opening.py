"""How a gradient method opens the model: plain transformers in fp32, every weight frozen."""

from __future__ import annotations

import torch

from blackbox_delta.backends.local import loading
from blackbox_delta.backends.local.loading import LoadedModel
from blackbox_delta.errors import UnsupportedError

#: What gradients are computed in, whatever the precision of the backend that they are beside.
PRECISION = torch.float32


def open_causal(name: str, device: str | None = None) -> LoadedModel:
    """The model by the name a local backend knows it by.

    It keeps the attention that transformers chooses, and stays in evaluation mode: no dropout.

    Args:
        name: The model's.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.

    Raises:
        ModelError: It cannot be found or loaded.
        UnsupportedError: It is no causal language model.
    """
    loaded = loading.load(name, PRECISION, loading.choose_device(device))
    if loaded.kind != "causal":
        raise UnsupportedError(
            f"the gradient methods train causal language models, and {name!r} is a {loaded.kind} "
            "one; leave them out of the comparison, or take a causal model"
        )
    loaded.model.requires_grad_(False)
    return loaded
