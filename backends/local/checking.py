"""Whether a delta fits a model: its kinds, modules and shapes, before anything is computed."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from blackbox_delta.errors import UnsupportedError
from blackbox_delta.geometry import Geometry
from blackbox_delta.types import AT_LAYER, IN_SLOTS, PREFIX, DeltaBatch

_Shape: TypeAlias = tuple[int | str, ...]
"""Without λ; a word stands for any length."""

#: Shape of each part at a module, from its inputs and outputs.
_AT_MODULES: dict[str, tuple[str, ...]] = {
    "lora_A": ("rank", "inputs"),
    "lora_B": ("outputs", "rank"),
    "core": ("rank", "rank"),
    "offset": ("outputs",),
    "scale_in": ("inputs",),
    "scale_out": ("outputs",),
    "down": ("rank", "outputs"),
    "up": ("outputs", "rank"),
    "weight": ("outputs", "inputs"),
    "values": ("entries",),
    "rows": ("entries",),
    "columns": ("entries",),
}

#: Parts that are nothing without the module's own matrix.
_OF_MATRICES = frozenset({"core"})


def check_delta(
    delta: DeltaBatch, taken: frozenset[str], hidden: int, geometry: Geometry | None
) -> None:
    """Checks a delta against a model.

    Args:
        delta: λ candidates.
        taken: The kinds that the model takes.
        hidden: Length of an embedding.
        geometry: What stands inside; may be left out for soft prompts alone.

    Raises:
        UnsupportedError: The model does not take such a delta.
    """
    for kind, count in Counter(delta.kinds).items():
        if kind not in taken:
            raise UnsupportedError(
                f"this model takes {', '.join(sorted(taken))} deltas, not {kind!r}"
            )
        if count > 1 and kind in (*IN_SLOTS, PREFIX):
            raise UnsupportedError(f"one {kind} can act at a time, not {count}")
    if set(IN_SLOTS) <= set(delta.kinds):
        raise UnsupportedError(f"{' and '.join(IN_SLOTS)} fill the same slots: one can act")
    for part in delta.parts:
        for name, shape in part.shapes.items():
            if part.kind in IN_SLOTS:
                _check_layer(part, name, geometry)
                _require(name, shape, ("tokens", hidden))
            elif geometry is not None:
                _require(name, shape, _expected(part, name, geometry))


def _check_layer(part: DeltaBatch, name: str, geometry: Geometry | None) -> None:
    """Raises ``UnsupportedError`` where a deep prompt names no layer or slot that there is."""
    slot, at, layer = name.partition(AT_LAYER)
    known = len(geometry.layer_spread) if geometry else 0
    if at and not (slot in part.tensors and layer.isdecimal() and 0 < int(layer) < known):
        raise UnsupportedError(
            f"{name!r} is no part of a deep prompt: it needs a slot of its own, and a layer from 1 "
            f"to {known - 1} of this model"
        )


def _require(name: str, shape: tuple[int, ...], expected: _Shape) -> None:
    fits = len(shape) == 1 + len(expected) and all(
        isinstance(length, str) or length == found
        for length, found in zip(expected, shape[1:], strict=True)
    )
    if not fits:
        written = ", ".join(map(str, expected))
        raise UnsupportedError(
            f"the delta's {name!r} has shape {shape}; this model takes (candidates, {written})"
        )


def _expected(part: DeltaBatch, name: str, geometry: Geometry) -> _Shape:
    where, _, what = name.rpartition(".")
    if part.kind == PREFIX:
        if not (where.isdecimal() and int(where) < geometry.layers and what in ("keys", "values")):
            raise UnsupportedError(
                f"{name!r} is no part of a prefix: these are '0.keys' to "
                f"'{geometry.layers - 1}.values' in this model"
            )
        return geometry.kv_heads, len(part.token_ids), geometry.head_size
    module = geometry.by_name.get(where)
    if module is None:
        raise UnsupportedError(f"this model has no module {where!r} for a delta to act on")
    if what not in _AT_MODULES:
        raise UnsupportedError(f"{name!r} is no tensor that acts at a module")
    if what in _OF_MATRICES and not module.linear:
        raise UnsupportedError(f"{name!r} acts on a matrix, and {where!r} has none")
    lengths = {"inputs": module.inputs, "outputs": module.outputs}
    return tuple(lengths.get(each, each) for each in _AT_MODULES[what])
