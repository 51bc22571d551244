"""Deep prompts on their way through a model: what is added to soft tokens' states in each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.lower_layers import layers_of
from blackbox_delta.types import AT_LAYER, IN_SLOTS, SOFT_PROMPT, DeltaBatch, IntArray


def in_slots_of(model: Any) -> tuple[str, ...]:
    """Kinds of delta that a model may have in slots: deep prompts need layers that suit them."""
    if getattr(model.config, "is_encoder_decoder", False):
        # An encoder and a decoder are two rows of layers, each with tokens of its own.
        return (SOFT_PROMPT,)
    width = model.get_input_embeddings().weight.shape[1]
    # Where embeddings are narrower than states, what is added has no room for these.
    suits = width == getattr(model.config.get_text_config(), "hidden_size", width)
    return IN_SLOTS if suits else (SOFT_PROMPT,)


@dataclass(frozen=True)
class DeepOffsets:
    """What λ candidates add to the states of their soft tokens.

    Attributes:
        layers: The model's layers.
        offsets: Number of a layer to (λ, S, hidden), soft tokens as in ``SoftTokens``.
    """

    layers: Sequence[torch.nn.Module] = ()
    offsets: Mapping[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Any, part: DeltaBatch, slots: Sequence[str], like: torch.Tensor
    ) -> DeepOffsets:
        """From a batch of deep prompts.

        Args:
            model: Whose layers they enter.
            part: The batch.
            slots: The slots in the order in which soft tokens are numbered.
            like: A tensor of the model's precision and device.
        """
        numbers = sorted(
            {int(name.rpartition(AT_LAYER)[2]) for name in part.tensors if AT_LAYER in name}
        )
        offsets = {}
        for number in numbers:
            stacked = np.concatenate(
                [part.tensors[f"{slot}{AT_LAYER}{number}"] for slot in slots], axis=1
            )
            tensor = torch.from_numpy(np.ascontiguousarray(stacked))
            offsets[number] = tensor.to(device=like.device, dtype=like.dtype)
        return cls(layers_of(model), offsets)

    def __bool__(self) -> bool:
        return bool(self.offsets)

    def select(self, chosen: slice | list[int]) -> DeepOffsets:
        """Some of the candidates."""
        return replace(self, offsets={layer: each[chosen] for layer, each in self.offsets.items()})

    @contextmanager
    def acting(
        self, codes: IntArray, *, by_example: bool = False, own: bool = False
    ) -> Iterator[None]:
        """For the time of a forward pass.

        Args:
            codes: (rows, m), which every candidate goes through; negative for soft tokens.
            by_example: Whether the batch is rows × candidates, and not candidates × rows.
            own: Whether row i is of candidate i alone.
        """
        row, position = np.nonzero(codes < 0)
        soft = -codes[row, position] - 1
        handles = []
        try:
            for number, offset in self.offsets.items() if len(row) else ():
                added = offset[row, soft][None] if own else offset[:, soft]
                hook = _entering(partial(_moved, added, row, position, by_example=by_example))
                layer = self.layers[number]
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _moved(
    added: torch.Tensor,
    row: IntArray,
    position: IntArray,
    states: torch.Tensor,
    *,
    by_example: bool,
) -> torch.Tensor:
    """States (λ·rows, m, hidden) with ``added`` (λ, k, hidden) at k places of each candidate."""
    grid = states.clone().view(-1, len(added), *states.shape[1:])
    if by_example:
        grid[row, :, position] += added.transpose(0, 1)
    else:
        grid = grid.view(len(added), -1, *states.shape[1:])
        grid[:, row, position] += added
    return grid.view(states.shape)


def _entering(move: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """A hook that moves the states, by whichever way a layer is handed them."""

    def hook(_module: torch.nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        if inputs:
            return (move(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "hidden_states": move(named["hidden_states"])}

    return hook
