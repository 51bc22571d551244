"""Layers below the first that candidates differ in: rows pass them once, for all candidates.

A delta in the upper layers leaves what enters these as it is. So the rows of a request go through
the model once as it is; what comes out of the lower layers is kept for the run. In every later
pass the lower layers put that out again, repeated for each candidate, and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.kept import Kept


def layers_of(model: Any) -> Sequence[torch.nn.Module]:
    """The layers that a token's state passes one after the other; none where that is not so.

    They are the outermost list of as many modules as the model says that it has layers.
    """
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return ()
    count = getattr(config, "num_hidden_layers", None)
    lists = (each for each in model.modules() if isinstance(each, torch.nn.ModuleList))
    return next((list(each) for each in lists if len(each) == count), ())


def untouched(model: Any, modules: Sequence[str], layers: Sequence[int]) -> int:
    """How many layers lie below all of a delta.

    Args:
        model: Whose.
        modules: Names of the modules that it acts at; one outside the layers may lie before them.
        layers: Numbers of the layers that it acts in besides.
    """
    numbers: dict[torch.nn.Module, int] = {}
    for number, layer in enumerate(layers_of(model)):
        for module in layer.modules():
            numbers.setdefault(module, number)
    at = (numbers.get(model.get_submodule(name), 0) for name in modules)
    return min((*at, *layers), default=0)


@dataclass(frozen=True)
class Passed:
    """What rows are behind the lower layers.

    Attributes:
        layers: These layers.
        output: What the last of them puts out, in whichever form; rows outermost.
        beginning: Keys and values of the rows in every layer of the model as it is, with what
            stands before them, where they are the beginning of others; else empty.
    """

    layers: Sequence[torch.nn.Module]
    output: Any
    beginning: PrefixCache

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return self.beginning.nbytes + sum(each.nbytes for each in _tensors(self.output))

    def record(self, lengths: torch.Tensor, width: int) -> PrefixCache:
        """Receives the keys and values of a beginning: those of the lower layers are known.

        Args:
            lengths: (λ,) the beginning's length, for each candidate.
            width: The last so many tokens are the beginning's own.
        """
        copies, lower = len(lengths), len(self.layers)

        def known(layers: list[torch.Tensor]) -> list[torch.Tensor]:
            return [each[:, :, -width:].expand(copies, -1, -1, -1) for each in layers[:lower]]

        return PrefixCache(lengths, known(self.beginning.keys), known(self.beginning.values))

    @contextmanager
    def instead(self, copies: int) -> Iterator[None]:
        """For the time of a pass of the same rows, repeated for each of ``copies`` candidates."""
        again = _mapped(self.output, lambda each: each.repeat(copies, *[1] * (each.ndim - 1)))
        own = [layer.__dict__.get("forward") for layer in self.layers]
        try:
            for layer in self.layers:
                layer.__dict__["forward"] = lambda *_inputs, **_named: again
            yield
        finally:
            for layer, forward in zip(self.layers, own, strict=True):
                del layer.__dict__["forward"]
                if forward is not None:  # somebody else's, put there before
                    layer.__dict__["forward"] = forward


class LowerLayers:
    """The layers of a model, of which the lower ones may be passed once for all candidates.

    Args:
        model: The model.
        kept: Keeps what rows are behind them.

    Attributes:
        proof: Whether answers stay the same where so many of the lowest layers compute nothing;
            asked once for each number, and not yet while it finds that out.
    """

    def __init__(self, model: Any, kept: Kept) -> None:
        self._layers = layers_of(model)
        self._kept = kept
        self._sound: dict[int, bool] = {}
        self.proof: Callable[[int], bool] = lambda _count: True

    def passed(
        self, key: Hashable, count: int, through: Callable[[], PrefixCache | None]
    ) -> Passed | None:
        """What rows are behind the lowest ``count`` layers; ``None`` if none is to be left out.

        Args:
            key: Tells the rows, and what stands before them, from all others.
            count: How many layers.
            through: Puts the rows through the model as it is, in one pass; keys and values where
                they are the beginning of others.

        Raises:
            NotImplementedError: The layers are not passed one after the other.
        """
        layers = self._layers[:count]
        if not layers or not self._is_sound(count):
            return None

        def make() -> Passed:
            with _noting(layers[-1]) as outputs:
                beginning = through() or PrefixCache(torch.zeros(0))
            if len(outputs) != 1:
                raise NotImplementedError(f"a layer that is called {len(outputs)} times in a pass")
            return Passed(layers, outputs[0], beginning)

        return self._kept.get(("lower layers", key, count), make)

    def _is_sound(self, count: int) -> bool:
        if count not in self._sound:
            self._sound[count] = True
            try:
                self._sound[count] = self.proof(count)
            except BaseException:  # an interrupted proof proves nothing
                del self._sound[count]
                raise
        return self._sound[count]


@contextmanager
def _noting(layer: torch.nn.Module) -> Iterator[list[Any]]:
    """Receives what a layer puts out."""
    outputs: list[Any] = []

    def note(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        # A copy: the layers above may work in place.
        outputs.append(_mapped(output, torch.Tensor.clone))

    handle = layer.register_forward_hook(note)
    try:
        yield outputs
    finally:
        handle.remove()


def _mapped(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A layer's output with its tensors changed."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, tuple):
        return tuple(_mapped(each, change) for each in output)
    if output is None:
        return None
    raise NotImplementedError(f"a layer that puts out a {type(output).__name__}")


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    for each in output if isinstance(output, tuple) else ():
        yield from _tensors(each)
