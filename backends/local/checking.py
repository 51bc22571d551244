"""Whether a delta fits a model: its kinds, modules and shapes, before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from blackbox_delta import tensors as of_tensors
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.geometry import Geometry, Module
from blackbox_delta.types import AT_LAYER, IN_SLOTS, PREFIX, DeltaBatch

_Shape: TypeAlias = tuple[int | str, ...]
"""Without λ; a word stands for any length, the same wherever it stands at one place."""

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

#: What each kind has at a module: one of these sets of parts.
_PARTS: dict[str, tuple[frozenset[str], ...]] = {
    "lora": (frozenset({"lora_A", "lora_B"}),),
    "tiny-lora": (frozenset({"core"}),),
    "bitfit": (frozenset({"offset"}),),
    "ia3": (
        frozenset({"scale_in"}),
        frozenset({"scale_out"}),
        frozenset({"scale_in", "scale_out"}),
    ),
    "adapter": (frozenset({"down", "up"}),),
    "last-layer": (frozenset({"weight"}),),
    "selective": (frozenset({"weight"}),),
    "sparse": (frozenset({"values", "rows", "columns"}),),
}

#: Parts that are nothing without the module's own matrix.
_OF_MATRICES = frozenset({"core"})


def check_delta(
    delta: DeltaBatch, taken: frozenset[str], table: tuple[int, int], geometry: Geometry | None
) -> None:
    """Checks a delta against a model.

    Args:
        delta: λ candidates.
        taken: The kinds that the model takes.
        table: Shape of the embeddings: tokens, and the length of each.
        geometry: What stands inside; may be left out for soft prompts alone.

    Raises:
        UnsupportedError: The model does not take such a delta.
    """
    _check_kinds(delta, taken)
    _check_count(delta)
    for part in delta.parts:
        if part.kind in IN_SLOTS:
            _check_slots(part, table[1], geometry)
        elif geometry is not None and part.kind == PREFIX:
            _check_prefix(part, table[0], geometry)
        elif geometry is not None:
            _check_modules(part, geometry)


def _check_kinds(delta: DeltaBatch, taken: frozenset[str]) -> None:
    for kind, count in Counter(delta.kinds).items():
        if kind not in taken:
            raise UnsupportedError(
                f"this model takes {', '.join(sorted(taken))} deltas, not {kind!r}"
            )
        if count > 1 and kind in (*IN_SLOTS, PREFIX):
            raise UnsupportedError(f"one {kind} can act at a time, not {count}")
    if set(IN_SLOTS) <= set(delta.kinds):
        raise UnsupportedError(f"{' and '.join(IN_SLOTS)} fill the same slots: one can act")


def _check_count(delta: DeltaBatch) -> None:
    """All tensors of all parts are of the same candidates."""
    if empty := [part.kind for part in delta.parts if not part.tensors]:
        raise UnsupportedError(f"the {empty[0]} delta has no tensors")
    counts = sorted({shape[0] for part in delta.parts for shape in part.shapes.values()})
    if len(counts) > 1 or counts[0] < 1:
        found = " and ".join(map(str, counts))
        raise UnsupportedError(
            f"the delta's tensors are of {found} candidates; all begin with the same number λ ≥ 1"
        )


def _check_slots(part: DeltaBatch, hidden: int, geometry: Geometry | None) -> None:
    known = len(geometry.layer_spread) if geometry else 0
    lengths: dict[str, dict[str, int]] = {}
    for name, shape in part.shapes.items():
        slot, at, layer = name.partition(AT_LAYER)
        if at and not (slot in part.tensors and layer.isdecimal() and 0 < int(layer) < known):
            raise UnsupportedError(
                f"{name!r} is no part of a deep prompt: it needs a slot of its own, and a layer "
                f"from 1 to {known - 1} of this model"
            )
        _require(name, shape, ("tokens", hidden), lengths.setdefault(slot, {}))


def _check_prefix(part: DeltaBatch, vocabulary: int, geometry: Geometry) -> None:
    if wrong := [token for token in part.token_ids if not 0 <= token < vocabulary]:
        raise UnsupportedError(
            f"a prefix begins with token {wrong[0]}, and this model has {vocabulary} of them, "
            "counted from 0"
        )
    expected = geometry.kv_heads, len(part.token_ids), geometry.head_size
    for name, shape in part.shapes.items():
        layer, _, what = name.rpartition(".")
        if not (layer.isdecimal() and int(layer) < geometry.layers and what in ("keys", "values")):
            raise UnsupportedError(
                f"{name!r} is no part of a prefix: these are '0.keys' to "
                f"'{geometry.layers - 1}.values' in this model"
            )
        _require(name, shape, expected, {})


def _check_modules(part: DeltaBatch, geometry: Geometry) -> None:
    by_module: dict[str, set[str]] = {}
    for name in part.tensors:
        module, _, what = name.rpartition(".")
        if module not in geometry.by_name:
            raise UnsupportedError(f"this model has no module {module!r} for a delta to act on")
        if what not in _AT_MODULES:
            raise UnsupportedError(f"{name!r} is no tensor that acts at a module")
        by_module.setdefault(module, set()).add(what)
    for name, parts in by_module.items():
        if parts not in _PARTS[part.kind]:
            raise UnsupportedError(
                f"{part.kind} needs {_sets(_PARTS[part.kind])} at a module, not "
                f"{_sets([parts])} as at {name!r}"
            )
        _check_module(part, geometry.by_name[name], parts)


def _check_module(part: DeltaBatch, module: Module, parts: Iterable[str]) -> None:
    if _OF_MATRICES.intersection(parts) and not module.linear:
        raise UnsupportedError(f"{part.kind} acts on a matrix, and {module.name!r} has none")
    lengths = {"inputs": module.inputs, "outputs": module.outputs}
    found: dict[str, int] = {}
    for what in sorted(parts):
        name = f"{module.name}.{what}"
        expected = tuple(lengths.get(each, each) for each in _AT_MODULES[what])
        _require(name, of_tensors.shape(part.tensors, name), expected, found)
    if "core" in parts and found["rank"] > min(lengths.values()):
        raise UnsupportedError(
            f"rank {found['rank']} is more than the {min(lengths.values())} singular vectors of "
            f"{module.name!r}"
        )
    if not isinstance(part.tensors, of_tensors.DeferredTensors):
        _check_places(part, module, parts)


def _check_places(part: DeltaBatch, module: Module, parts: Iterable[str]) -> None:
    """Those of a sparse delta are inside the matrix."""
    for what, length in {"rows": module.outputs, "columns": module.inputs}.items():
        if what in parts:
            places = part.tensors[f"{module.name}.{what}"]
            if places.size and not 0 <= places.min() <= places.max() < length:
                raise UnsupportedError(
                    f"{what} of {module.name!r} are from 0 to {length - 1}, not "
                    f"{places.min():.0f} to {places.max():.0f}"
                )


def _require(name: str, shape: tuple[int, ...], expected: _Shape, found: dict[str, int]) -> None:
    """Raises ``UnsupportedError`` unless a shape is as expected; notes in ``found`` what is new."""
    written = ", ".join(str(found.get(each, each)) for each in map(str, expected))
    fits = len(shape) == 1 + len(expected) and all(
        length == (found.setdefault(each, length) if isinstance(each, str) else each)
        for each, length in zip(expected, shape[1:], strict=True)
    )
    if not fits:
        raise UnsupportedError(
            f"the delta's {name!r} has shape {shape}; this model takes (candidates, {written})"
        )


def _sets(sets: Iterable[Iterable[str]]) -> str:
    return " or ".join(" and ".join(sorted(each)) for each in sets)
