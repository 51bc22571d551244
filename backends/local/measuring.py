"""The geometry of a model: which modules a delta can act on, found by watching two small batches.

A module is taken if what goes in and what comes out has a vector for every token, rows outermost:
whatever its class is called. Experts that see only some tokens, and tables of positions, which are
as long whatever the number of rows, are left out that way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.causal import CausalEngine
from blackbox_delta.backends.local.engines import Engine
from blackbox_delta.backends.local.layout import SoftTokens
from blackbox_delta.backends.local.lower_layers import layers_of
from blackbox_delta.backends.local.matrices import is_linear, matrix_of
from blackbox_delta.backends.local.reading import trunk_of
from blackbox_delta.backends.prompt_encoder import EncodedPrompt
from blackbox_delta.errors import OutOfMemoryError
from blackbox_delta.geometry import Geometry, Module, Salient
from blackbox_delta.types import IntArray

#: Rows of either batch, and their tokens: numbers that nothing else in a model is likely to be.
ROWS, TOKENS = (2, 3), 11
#: Deviation of normal numbers whose median size is 1.
_NORMAL = 1.4826


@dataclass
class _Seen:
    """What went through one module.

    Attributes:
        inputs: Channels that go in.
        outputs: Channels that come out.
        level: Size of a typical token that goes in.
        spread: Deviation of a typical entry that comes out.
        sound: Whether all of it had a vector for every token.
        tokens: Of a row, at each call, by the number of rows.
        columns: (inputs,) size of each channel that goes in.
    """

    inputs: int = 0
    outputs: int = 0
    level: float = 0.0
    spread: float = 0.0
    sound: bool = True
    tokens: dict[int, list[int]] = field(default_factory=dict)
    columns: torch.Tensor = field(default_factory=lambda: torch.ones(0))


def measure(model: Any, engine: Engine, context: int) -> Geometry:
    """The geometry of a model.

    Args:
        model: The model.
        engine: What evaluates it.
        context: The most tokens that it reads.

    Raises:
        OutOfMemoryError: A batch does not fit as a whole.
    """
    seen: dict[str, _Seen] = {}
    weights = model.get_input_embeddings().weight
    rng, top = np.random.default_rng(0), min(len(weights), 1000)
    rows = rng.integers(0, top, (max(ROWS), TOKENS))
    before = engine.computed_tokens
    sizes: dict[int, float] = {}
    kept: PrefixCache | None = None
    for count in ROWS:
        with _watching(model, seen, count), _watching_layers(model, sizes), _at_once(model):
            kept = _read(engine, rows[:count], weights)
    engine.computed_tokens = before
    if not isinstance(engine, CausalEngine) and engine.fronts:
        kept = engine.fronts.alone(rows)
    entering = [size for _, size in sorted(sizes.items())]
    modules = tuple(_module(model, name, each) for name, each in seen.items() if _is_sound(each))

    @torch.inference_mode()
    def salient(name: str, count: int) -> Salient:
        matrix = matrix_of(model.get_submodule(name), weights.dtype)
        return _salient(matrix, seen[name].columns, count)

    if kept is None:
        return Geometry(modules, context=context, layer_spread=entering, salient=salient)
    _, heads, _, size = kept.keys[0].shape
    return Geometry(
        modules,
        len(kept.keys),
        heads,
        size,
        [_rounded(_spread(layer)) for layer in kept.keys],
        [_rounded(_spread(layer)) for layer in kept.values],
        context,
        entering,
        salient,
    )


def _read(engine: Engine, rows: IntArray, weights: torch.Tensor) -> PrefixCache | None:
    """Puts rows through the model; their keys and values where it takes prefixes by them."""
    nothing = Candidates(SoftTokens.of(None, weights.shape[1], weights.dtype, weights.device))
    if isinstance(engine, CausalEngine):
        read = engine.passes.prefixes(list(rows), nothing)
        return read if engine.takes_prefixes else None
    pieces = [(tuple(map(int, row)),) for row in rows]
    prompts = [EncodedPrompt(piece, piece, ()) for piece in pieces]
    engine.score(prompts, [(int(rows[0, 0]),)], nothing, 0)
    engine.release()
    return None


@contextmanager
def _at_once(model: Any) -> Iterator[None]:
    """Sees to it that the model is called once: rows in parts tell nothing of its modules.

    Raises:
        OutOfMemoryError: It was called several times.
    """
    calls = 0

    def count(_module: torch.nn.Module, _inputs: Any) -> None:
        nonlocal calls
        calls += 1

    handle = trunk_of(model).register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
    if calls > 1:
        raise OutOfMemoryError(
            f"out of memory: to see which modules a delta can act on takes {max(ROWS)} rows of "
            f"{TOKENS} tokens at once; free some memory, or use a lower precision or a smaller "
            "model"
        )


@contextmanager
def _watching(model: Any, seen: dict[str, _Seen], rows: int) -> Iterator[None]:
    head = model.get_output_embeddings()
    handles = []
    try:
        for name, module in model.named_modules():
            if module is not head and (is_linear(module) or _is_norm(module)):
                handles.append(module.register_forward_hook(_watch(name, seen, rows)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watching_layers(model: Any, sizes: dict[int, float]) -> Iterator[None]:
    """Notes how large a token's state is as it enters each layer."""

    def watch(number: int) -> Any:
        def look(_module: torch.nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            states = inputs[0] if inputs else named["hidden_states"]
            if states.ndim != 3:  # several states for each token, which no delta moves
                return
            sizes[number] = _rounded(_level(states)) or 1.0

        return look

    handles = [
        layer.register_forward_pre_hook(watch(number), with_kwargs=True)
        for number, layer in enumerate(layers_of(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, seen: dict[str, _Seen], rows: int) -> Any:
    def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        noted = seen.setdefault(name, _Seen())
        x: Any = inputs[0] if inputs else None
        if _is_routed(name, x) or not (
            _by_row(x, rows) and _by_row(output, rows) and _by_channel(module, output)
        ):
            noted.sound = False
            return
        noted.tokens.setdefault(rows, []).append(x.shape[:-1].numel() // rows)
        noted.inputs, noted.outputs = x.shape[-1], output.shape[-1]
        noted.level, noted.spread = _level(x), _spread(output)
        noted.columns = x.float().square().flatten(0, -2).mean(dim=0).sqrt()

    return look


def _is_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.nn.Parameter) and weight.ndim == 1


def _is_routed(name: str, value: Any) -> bool:
    """Whether a module sees the tokens that a router sends it, in an order of the router's.

    Those may be all the tokens there are, by chance or because there are no more experts than each
    token goes to; so their number does not tell.
    """
    return "experts" in name.split(".") and not (isinstance(value, torch.Tensor) and value.ndim > 2)


def _by_row(value: Any, rows: int) -> bool:
    """Whether rows are outermost and no token is missing."""
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return False
    if value.ndim == 2:
        # Rows and tokens in one; an expert that some tokens go to has fewer of them.
        return len(value) >= rows * TOKENS and len(value) % rows == 0
    return len(value) == rows


def _is_sound(seen: _Seen) -> bool:
    """Whether a module saw the same of each row in either batch, however many others it had."""
    return seen.sound and seen.tokens.get(ROWS[0]) == seen.tokens.get(ROWS[1])


def _by_channel(module: Any, output: torch.Tensor) -> bool:
    """Whether a norm's channels are innermost, as they are not everywhere."""
    return is_linear(module) or len(module.weight) == output.shape[-1]


def _module(model: Any, name: str, seen: _Seen) -> Module:
    linear = is_linear(model.get_submodule(name))
    # A module that puts out nothing now may do so under a delta.
    level, spread = _rounded(seen.level) or 1.0, _rounded(seen.spread) or 1.0
    return Module(name, seen.inputs, seen.outputs, linear, level, spread)


def _salient(matrix: torch.Tensor, columns: torch.Tensor, count: int) -> Salient:
    """The ``count`` entries with the largest |w_ij|·‖x_j‖; all where there are fewer."""
    # A column that is never used says nothing of what its entries would do.
    levels = columns.clamp(min=float(columns.max()) * 1e-3 or 1.0)
    weights = matrix.float().abs() * levels
    places = weights.flatten().topk(min(count, weights.numel())).indices
    rows, taken = places // matrix.shape[1], places % matrix.shape[1]
    return Salient(
        tuple(rows.tolist()), tuple(taken.tolist()), tuple(map(_rounded, levels[taken].tolist()))
    )


# A few channels, and often the first token's state, are a thousand times larger than all others. So
# sizes are those of a typical token and a typical channel: with their mean squares instead, a step
# that is to be small moves everything else by many times what is there.


def _level(values: torch.Tensor) -> float:
    """Root mean square of a typical token's vector."""
    return float(values.float().square().mean(dim=-1).sqrt().median())


def _spread(values: torch.Tensor) -> float:
    """Deviation of a typical entry: that of normal ones with this median size."""
    return _NORMAL * float(values.float().abs().median())


def _rounded(value: float) -> float:
    """Few digits: the same on machines that add in another order."""
    return float(f"{value:.3g}")
