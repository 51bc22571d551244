"""Patterns of modules, against PEFT's own reading of ``target_modules``."""

from __future__ import annotations

import pytest

from blackbox_delta.deltas import IA3, Adapter
from blackbox_delta.deltas.targets import ends_feed_forward, select
from blackbox_delta.errors import ConfigError
from blackbox_delta.geometry import Geometry, Module

NAMES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 10)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.xq_proj", "norm")
]
GEOMETRY = Geometry(tuple(Module(n, 4, 4, not n.endswith("norm"), 1.0, 1.0) for n in NAMES))


@pytest.mark.parametrize(
    "pattern",
    [
        ["q_proj", "v_proj"],
        ["self_attn.q_proj"],
        ["model.layers.1.mlp.down_proj"],
        r".*layers\.1\.self_attn\..*",
        r".*\.(q_proj|down_proj)",
    ],
)
def test_patterns_are_read_as_peft_reads_them(pattern: str | list[str]) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists

    config = peft.LoraConfig(target_modules=pattern)
    theirs = [name for name in NAMES if check_target_module_exists(config, name)]
    assert [module.name for module in select(GEOMETRY, pattern)] == theirs
    assert theirs


def test_words_for_many_modules() -> None:
    assert len(select(GEOMETRY, "all")) == len(NAMES)
    assert not any(module.name.endswith("norm") for module in select(GEOMETRY, "all-linear"))
    assert select(GEOMETRY, "q_proj, v_proj") == select(GEOMETRY, ["q_proj", "v_proj"])


def test_the_last_layer_is_the_one_with_the_highest_number() -> None:
    assert {module.name for module in select(GEOMETRY, "last-layer")} == {
        name for name in NAMES if ".10." in name and not name.endswith("norm")
    }


def test_the_last_layer_of_two_rows_is_the_decoders() -> None:
    """Though the encoder may have more of them."""
    names = [f"model.encoder.layers.{number}.fc2" for number in range(6)]
    names += [f"model.decoder.layers.{number}.{name}" for number in (0, 1) for name in ("q", "fc2")]
    geometry = Geometry(tuple(Module(name, 4, 4, True, 1.0, 1.0) for name in [*names, "pooler"]))
    assert [module.name for module in select(geometry, "last-layer")] == names[-2:]


def test_a_name_in_a_list_that_is_nobodys_is_told() -> None:
    """A slip of the pen would leave modules out without a word."""
    with pytest.raises(ConfigError, match="no module of this model is named by 'v_prjo'"):
        select(GEOMETRY, "q_proj, v_prjo")


def test_random_modules_follow_from_the_seed() -> None:
    drawn = [select(GEOMETRY, "random:5", seed) for seed in range(20)]
    assert drawn == [select(GEOMETRY, "random:5", seed) for seed in range(20)]
    assert {len(set(modules)) for modules in drawn} == {5}
    assert len(set(drawn)) > 15
    assert {module for modules in drawn for module in modules} == set(
        select(GEOMETRY, "all-linear")
    )


@pytest.mark.parametrize("pattern", ["random:0", "random:99", "random:x", "random:", "random:²"])
def test_numbers_that_cannot_be_drawn_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="a number up to the 12 linear layers"):
        select(GEOMETRY, pattern)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.mlp.down_proj", True),
        ("transformer.h.0.mlp.c_proj", True),
        ("transformer.h.0.attn.c_proj", False),
        ("bert.encoder.layer.0.output.dense", True),
        ("bert.encoder.layer.0.attention.output.dense", False),
        ("encoder.block.0.layer.1.DenseReluDense.wo", True),
        ("transformer.h.0.mlp.fc_out", True),
        ("model.layers.0.mlp.Wo", True),
        ("model.layers.0.attn.Wo", False),
    ],
)
def test_the_ends_of_feed_forward_blocks(name: str, expected: bool) -> None:
    module = Module(name, 4, 4, True, 1.0, 1.0)
    assert ends_feed_forward(module) is expected
    other = Module("model.layers.0.mlp.down_proj", 4, 4, True, 1.0, 1.0)
    for kind in (Adapter, IA3):
        assert (module in select(Geometry((module, other)), kind.targets)) is expected


@pytest.mark.parametrize("pattern", [["q_proj", "!1.self_attn.q_proj"], "q_proj, !layers.1.q_proj"])
def test_a_name_that_is_not_meant_is_left_out(pattern: str | list[str]) -> None:
    names = [f"layers.{layer}.self_attn.q_proj" for layer in (0, 1, 11)] + ["layers.1.q_proj"]
    geometry = Geometry(tuple(Module(name, 4, 4, True, 1.0, 1.0) for name in names))
    [gone] = {module.name for module in geometry.modules} - {
        module.name for module in select(geometry, pattern)
    }
    assert gone == ("layers.1.self_attn.q_proj" if isinstance(pattern, list) else "layers.1.q_proj")


@pytest.mark.parametrize("pattern", ["z_proj", ["z_proj"], r".*\.z_.*", "roj"])
def test_patterns_that_match_nothing_say_what_there_is(pattern: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="modules are called down_proj, norm, q_proj, v_proj"):
        select(GEOMETRY, pattern)


@pytest.mark.parametrize("pattern", ["all", r"model\.layers\.1\..*", "norm,q_proj"])
def test_norms_are_left_out_where_matrices_are_needed(pattern: str) -> None:
    whole = select(GEOMETRY, pattern)
    left = select(GEOMETRY, pattern, matrices=True)
    assert left == tuple(module for module in whole if module.linear) != whole


def test_a_pattern_of_norms_alone_names_no_matrix() -> None:
    with pytest.raises(
        ConfigError, match="named by 'norm', only norm, .* called down_proj, q_proj"
    ):
        select(GEOMETRY, "norm", matrices=True)
    with pytest.raises(ConfigError, match="no module of this model is named by 'gone'"):
        select(GEOMETRY, "gone", matrices=True)


def test_a_number_in_a_name_is_one_in_plain_digits() -> None:
    odd = Geometry((Module("layers.²", 4, 4, True, 1.0, 1.0), *GEOMETRY.modules))
    assert select(odd, "last-layer") == select(GEOMETRY, "last-layer")


def test_a_broken_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        select(GEOMETRY, "(q_proj")
