"""Every kind that acts inside a model: the contract, its zero, its scales and its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

import numpy as np
import pytest

from blackbox_delta.deltas import KINDS, MODULE_DELTAS, Composition, Prefix, delta_from_config
from blackbox_delta.deltas.blocks import even
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module, Salient
from blackbox_delta.settings import DELTA_KINDS
from blackbox_delta.subspaces import make_subspace
from blackbox_delta.testing import check_delta

MODULES = tuple(
    Module(f"layers.{layer}.{name}", inputs, outputs, linear, level, spread)
    for layer in range(2)
    for name, inputs, outputs, linear, level, spread in (
        ("attn.q_proj", 8, 8, True, 1.0, 2.0),
        ("attn.v_proj", 8, 4, True, 1.0, 0.5),
        ("mlp.down_proj", 12, 8, True, 0.25, 3.0),
        ("norm", 8, 8, False, 4.0, 1.0),
    )
)


def salient(name: str, count: int) -> Salient:
    """The first entries of a module's matrix."""
    module = next(each for each in MODULES if each.name == name)
    rows, columns = np.divmod(np.arange(min(count, 3 * module.inputs)), module.inputs)
    levels = [module.level] * len(rows)
    return Salient(tuple(rows.tolist()), tuple(columns.tolist()), tuple(levels))


GEOMETRY = Geometry(MODULES, 2, 1, 4, [2.0, 3.0], [0.5, 0.25], 64, salient=salient)
LINEAR = tuple(module for module in MODULES if module.linear)


def made(kind: str, **settings: int) -> Any:
    if kind == "prefix":
        return Prefix(GEOMETRY, [5, 6, 7])
    return MODULE_DELTAS[kind].build(LINEAR, GEOMETRY, **settings)


INSIDE = ["prefix", *MODULE_DELTAS]


@pytest.mark.parametrize("kind", INSIDE)
def test_the_contract(kind: str) -> None:
    check_delta(made(kind))


@pytest.mark.parametrize("kind", INSIDE)
def test_config_through_json_rebuilds_the_same_bits(kind: str) -> None:
    delta = made(kind, **({"rank": 3, "seed": 9} if kind in ("lora", "adapter") else {}))
    again = delta_from_config(json.loads(json.dumps(delta.config())), None, GEOMETRY)
    theta = np.random.default_rng(0).standard_normal((2, delta.size)).astype(np.float32)
    assert again.unpack(theta).digest(1) == delta.unpack(theta).digest(1)


@pytest.mark.parametrize("kind", [*INSIDE, "lora+prefix+sparse"])
def test_tensors_made_later_are_those_of_theta(kind: str) -> None:
    parts = [made(each) for each in kind.split("+")]
    delta = parts[0] if len(parts) == 1 else Composition(parts)
    subspace = make_subspace("sparse", 5, delta.size, 0, 0.3)
    z = np.random.default_rng(0).standard_normal((3, 5))
    whole = delta.unpack(subspace.project(z, delta.origin))
    later = delta.deferred(subspace.theta(z))
    assert later.kinds == whole.kinds
    assert later.structure == whole.structure
    assert [later.checksum(row) for row in range(3)] == [whole.digest(row) for row in range(3)]


@pytest.mark.parametrize("kind", INSIDE)
def test_scales_are_kept_when_the_model_is_measured_otherwise(kind: str) -> None:
    """Another machine may add in another order; a saved delta must not follow."""
    delta = made(kind)
    others = tuple(replace(module, level=9.0, spread=9.0) for module in MODULES)
    elsewhere = replace(GEOMETRY, modules=others, key_spread=[9.0, 9.0])
    again = delta_from_config(json.loads(json.dumps(delta.config())), None, elsewhere)
    theta = np.ones((1, delta.size), np.float32)
    assert again.unpack(theta).digest(0) == delta.unpack(theta).digest(0)


def test_what_each_kind_is_at_zero() -> None:
    def at_zero(kind: str) -> dict[str, Any]:
        delta = made(kind)
        return dict(delta.unpack(np.zeros((1, delta.size), np.float32)).tensors)

    lora, adapter = at_zero("lora"), at_zero("adapter")
    assert all((value == 0).all() for name, value in lora.items() if name.endswith("lora_B"))
    assert all((value != 0).all() for name, value in lora.items() if name.endswith("lora_A"))
    assert all((value == 0).all() for name, value in adapter.items() if name.endswith("up"))
    assert all((value == 0).all() for value in at_zero("bitfit").values())
    for kind in ("tiny-lora", "last-layer", "selective"):
        assert all((value == 0).all() for value in at_zero(kind).values())
    sparse = at_zero("sparse")
    assert all((value == 0).all() for name, value in sparse.items() if name.endswith("values"))
    assert all((value == 1).all() for value in at_zero("ia3").values())
    assert all((value == 0).all() for value in at_zero("prefix").values())


@pytest.mark.parametrize(
    ("kind", "rank"),
    [("lora", 1), ("lora", 16), ("bitfit", 0), ("selective", 0), ("sparse", 0)],
)
def test_a_unit_step_moves_modules_by_about_what_they_put_out(kind: str, rank: int) -> None:
    """Its square, over all modules together: the reason why one scale serves every kind."""
    delta = made(kind, **({"rank": rank} if rank else {}))
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((300, delta.size)).astype(np.float32)
    tensors = delta.unpack(theta).tensors
    shares = []
    for module in LINEAR:
        x = module.level * rng.standard_normal((300, module.inputs))
        if kind == "bitfit":
            moved = tensors[f"{module.name}.offset"]
        elif kind == "sparse":
            moved = np.zeros((300, module.outputs))
            own = {part: tensors[f"{module.name}.{part}"] for part in ("values", "rows", "columns")}
            for entry in range(own["values"].shape[1]):
                row, column = int(own["rows"][0, entry]), int(own["columns"][0, entry])
                moved[:, row] += own["values"][:, entry] * x[:, column]
        elif kind == "selective":
            moved = np.einsum("loi,li->lo", tensors[f"{module.name}.weight"], x)
        else:
            inner = np.einsum("lri,li->lr", tensors[f"{module.name}.lora_A"], x)
            moved = np.einsum("lor,lr->lo", tensors[f"{module.name}.lora_B"], inner)
        shares.append((moved**2).mean() / module.spread**2)
    # A starts with the variance that its steps have, so a unit step doubles it.
    assert sum(shares) == pytest.approx(2.0 if kind == "lora" else 1.0, rel=0.25)


def test_random_starts_are_these_for_ever() -> None:
    raw = np.random.PCG64(3).random_raw(4).tolist()
    expected = [math.sqrt(3 / 5) * (((bits >> 40) + 0.5) / 2**23 - 1) for bits in raw]
    np.testing.assert_array_equal(
        even(5, (2, 2), np.random.PCG64(3)), np.array(expected, np.float32).reshape(2, 2)
    )
    wide = even(50, (200, 50), np.random.PCG64(0))
    assert wide.var() == pytest.approx(1 / 50, rel=0.05)


def test_kinds_and_their_settings_are_those_that_can_be_chosen() -> None:
    assert tuple(DELTA_KINDS) == KINDS
    for kind, delta in MODULE_DELTAS.items():
        assert set(DELTA_KINDS[kind]) == {*delta.defaults, "targets"} - {"seed"}


def test_groups_are_layers_or_modules() -> None:
    rank_1 = {"q_proj": 16, "v_proj": 12, "down_proj": 20}
    assert made("lora", rank=1).groups == (sum(rank_1.values()),) * 2
    assert MODULE_DELTAS["lora"](LINEAR[:3], rank=1).groups == tuple(rank_1.values())
    assert made("prefix").groups == (2 * 12,) * 2
    assert made("bitfit").groups == (8 + 4 + 8,) * 2
    names = ("enc.0.x.3.q", "enc.0.x.4.q", "dec.0.x.3.q", "dec.1.x.3.q", "norm")
    outside = [Module(name, 8, 8, True, 1.0, 1.0) for name in names]
    assert MODULE_DELTAS["bitfit"](outside).groups == (16, 8, 8, 8)


@pytest.mark.parametrize("kind", ["lora", "bitfit", "prefix", "selective"])
def test_shapes_are_those_of_the_tensors(kind: str) -> None:
    delta = made(kind)
    tensors = delta.unpack(np.zeros((1, delta.size), np.float32)).tensors
    assert delta.shapes == tuple(value.shape[1:] for value in tensors.values())


# ------------------------------------------------------------------------ compositions


def test_a_composition_is_its_parts_in_their_own_units() -> None:
    parts = [made("lora"), made("bitfit"), made("prefix")]
    together = Composition(parts)
    assert together.kind == "lora+bitfit+prefix"
    assert together.size == sum(part.size for part in parts)
    assert together.groups == tuple(length for part in parts for length in part.groups)
    assert together.shapes == tuple(shape for part in parts for shape in part.shapes)
    check_delta(together)
    theta = np.random.default_rng(0).standard_normal((2, together.size)).astype(np.float32)
    batch, at = together.unpack(theta), 0
    assert batch.kinds == ("lora", "bitfit", "prefix")
    for part, own in zip(parts, batch.parts, strict=True):
        assert own.digest(1) == part.unpack(theta[:, at : at + part.size]).digest(1)
        at += part.size
    again = delta_from_config(json.loads(json.dumps(together.config())), None, GEOMETRY)
    assert again.unpack(theta).digest(0) == batch.digest(0)


def test_what_is_kept_of_a_sparse_mask_is_small() -> None:
    """As it is written: a number in a list would take a line of its own."""
    mask = made("sparse", entries=12)
    written = json.dumps(mask.config()["places"], indent=2)
    assert len(written) < 8 * mask.size


@pytest.mark.parametrize(
    "wrong",
    [
        {"places": ["0:0"]},
        {"places": ["0:0:0"] * len(LINEAR)},
        {"places": ["x:0"] * len(LINEAR)},
        {"places": [""] * len(LINEAR)},
        {"places": [[0, 0]] * len(LINEAR)},
        {"powers": ["much"] * len(LINEAR)},
        {"powers": None},
    ],
)
def test_a_damaged_mask_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="incomplete or of another version"):
        delta_from_config({**made("sparse").config(), **wrong}, None, GEOMETRY)


@pytest.mark.parametrize(
    "wrong", [{"places": ["0:-1"] * len(LINEAR)}, {"powers": [0.0] * len(LINEAR)}]
)
def test_a_mask_of_another_matrix_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="entries that this model's matrices do not have"):
        delta_from_config({**made("sparse").config(), **wrong}, None, GEOMETRY)


def test_a_batch_of_several_kinds_keeps_its_candidates_together() -> None:
    batch = Composition([made("lora"), made("bitfit")])
    theta = np.random.default_rng(0).standard_normal((3, batch.size)).astype(np.float32)
    whole = batch.unpack(theta)
    assert whole.select([2, 0]).digest(0) == whole.digest(2)
    assert len({whole.digest(row) for row in range(3)}) == 3
    alone = whole.parts[0]
    assert alone.digest(0) != whole.digest(0)


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: made("lora", rank=0), "rank of lora is at least 1, not 0"),
        (lambda: made("sparse", entries=0), "entries of sparse is at least 1, not 0"),
        (lambda: MODULE_DELTAS["sparse"].build(
            [Module("a", 2048, 2048, True, 1.0, 1.0)], GEOMETRY, entries=10**9),
         "entries = 1000000000 of sparse are 4194304 places"),
        (lambda: MODULE_DELTAS["sparse"].build(LINEAR, Geometry(MODULES)), "cannot be told"),
        (lambda: delta_from_config({"kind": "sparse", "entries": 1, "modules": []}, None, GEOMETRY),
         "incomplete"),
        (lambda: delta_from_config(
            {**made("sparse").config(), "places": ["9:0"] * len(LINEAR)},
            None, GEOMETRY), "entries that this model's matrices do not have"),
        (lambda: Prefix(GEOMETRY, []), "at least 1 token"),
        (lambda: Prefix(GEOMETRY, range(64)), "64 tokens leaves no room in the 64 tokens"),
        (lambda: Prefix(GEOMETRY, [1], [0, 2]), "layers 0 to 1 of this model, not into 2"),
        (lambda: Prefix(GEOMETRY, [1], []), "not into none"),
        (lambda: Prefix(GEOMETRY, [1], [0, 1, 0]), "each layer once; named several times: 0"),
        (lambda: Prefix.build(GEOMETRY, [1, 2], -1, None), "at least 1 token"),
        (lambda: Prefix.build(GEOMETRY, [1, 2], 10**9, None), "1000000000 tokens leaves no room"),
        (lambda: Prefix.build(GEOMETRY, [], 3, None), "at least 1 token"),
        (lambda: made("lora", rank=10**9), "rank of lora is at most 20 at these modules, not 10"),
        (lambda: made("adapter", rank=10**9), "rank of adapter is at most 20 at these modules"),
        (lambda: MODULE_DELTAS["lora"]([]), "lora needs a module to act on"),
        (lambda: Prefix(Geometry(MODULES), [1]), "takes no prefix"),
        (lambda: Composition([made("lora")]), "two or more different kinds"),
        (lambda: Composition([made("lora"), made("lora")]), "not of lora\\+lora"),
        (lambda: made("lora").unpack(np.zeros((1, 3), np.float32)), "Expected θ of shape"),
        (lambda: Composition([made("lora"), made("ia3")]).unpack(np.zeros((1, 3), np.float32)),
         "Expected θ of shape"),
        (lambda: delta_from_config(made("lora").config(), None, None), "takes no loras"),
        (lambda: delta_from_config(made("prefix").config(), None, None), "takes no prefixes"),
        (lambda: delta_from_config(made("lora").config(), None, Geometry(MODULES[1:])),
         "'layers.0.attn.q_proj', which this model does not have"),
        (lambda: delta_from_config({"kind": "lora"}, None, GEOMETRY), "incomplete"),
        (lambda: delta_from_config({"kind": "prefix"}, None, GEOMETRY), "incomplete"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        what()


@pytest.mark.parametrize("kind", MODULE_DELTAS)
def test_norms_are_taken_or_refused_by_name(kind: str) -> None:
    if not MODULE_DELTAS[kind].needs_matrices:
        assert MODULE_DELTAS[kind].build(MODULES, GEOMETRY).modules == MODULES
        return
    with pytest.raises(ConfigError, match=f"{kind} acts on linear layers, and 'layers.0.norm' is"):
        MODULE_DELTAS[kind].build(MODULES, GEOMETRY)


def test_a_prefix_of_some_words_cuts_or_repeats_them() -> None:
    assert Prefix.build(GEOMETRY, [5, 6], 5, [1]).token_ids == (5, 6, 5, 6, 5)
    assert Prefix.build(GEOMETRY, [5, 6, 7], 2, None).token_ids == (5, 6)


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places in JSON; of a list, those of its first entry."""
    if path:
        yield path
    if isinstance(value, list):
        value = dict(enumerate(value[:1]))
    if isinstance(value, dict):
        for key, each in value.items():
            yield from spots(each, (*path, key))


JUNK = (None, -1, 10**9, math.inf, math.nan, "x", [], [None], {}, True, [[1, 2]], [[math.inf] * 2])


@pytest.mark.parametrize("kind", [*INSIDE, "lora+prefix"])
def test_nonsense_in_what_was_saved_is_refused_as_such(kind: str) -> None:
    """Whatever is wrong with it; some of it is another delta, and no nonsense."""
    parts = [made(each) for each in kind.split("+")]
    config = (parts[0] if len(parts) == 1 else Composition(parts)).config()
    refused = 0
    for path, junk in product(spots(config), JUNK):
        broken = json.loads(json.dumps(config))
        *outer, last = path
        reduce(getitem, outer, broken)[last] = junk
        try:
            delta_from_config(broken, None, GEOMETRY)
        except ConfigError:
            refused += 1
    assert refused > 10
    with pytest.raises(ConfigError, match="3 is not what a delta says"):
        delta_from_config(3, None, GEOMETRY)  # type: ignore[arg-type]


def test_a_model_of_other_shapes_is_refused() -> None:
    wider = Geometry((replace(MODULES[0], inputs=16), *MODULES[1:]))
    with pytest.raises(ConfigError, match=r"takes 8 numbers to 8; this model's takes 16 to 8"):
        delta_from_config(made("lora").config(), None, wider)
