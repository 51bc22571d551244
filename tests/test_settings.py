from __future__ import annotations

import re
import tomllib
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from blackbox_delta.api import RECIPES
from blackbox_delta.budget import Budget
from blackbox_delta.errors import ConfigError
from blackbox_delta.heads import HEADS
from blackbox_delta.objectives import OBJECTIVES
from blackbox_delta.optimizers import OPTIMIZERS
from blackbox_delta.prices import Prices
from blackbox_delta.settings import PARTS, Settings


def test_every_setting_is_documented_and_nothing_else() -> None:
    documented = re.findall(r"^        (\w+): ", Settings.__doc__ or "", flags=re.MULTILINE)
    assert documented == list(Settings.model_fields)


def test_every_choice_is_documented() -> None:
    for name in (*RECIPES, *HEADS, *OBJECTIVES, *OPTIMIZERS):
        assert f'``"{name}"``' in (Settings.__doc__ or "")
    for part in PARTS:
        assert f"``{part}``" in (Settings.__doc__ or "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_head_of_its_own_unless_one_is_given(recipe: str) -> None:
    own = Settings.of({"recipe": recipe})
    assert own.head is None
    assert f"``{own.head_name}`` for ``{recipe}``" in (Settings.__doc__ or "")
    assert Settings.of({"recipe": recipe, "head": "plain"}).head_name == "plain"


@pytest.mark.parametrize(
    ("without", "left_out"),
    [
        (None, set()),
        ("", set()),
        ("anchors", {"anchors"}),
        (" words , search,", {"words", "search"}),
        (",".join(PARTS), set(PARTS)),
    ],
)
def test_parts_are_left_out_by_name(without: str | None, left_out: set[str]) -> None:
    assert Settings.of({"without": without}).left_out == left_out


def test_none_stands_for_the_default() -> None:
    assert Settings.of(dict.fromkeys(Settings.model_fields)) == Settings()


def test_defaults_can_be_used_as_they_are() -> None:
    assert str(Budget.parse(Settings().budget)) == "300 calls"
    assert Settings().recipe in RECIPES
    assert Settings().head_name in HEADS
    assert Settings().objective in OBJECTIVES
    assert Settings().optimizer in OPTIMIZERS


@pytest.mark.parametrize("budget", [300, "300", np.int64(300)])
def test_a_budget_may_be_a_number(budget: Any) -> None:
    assert str(Budget.parse(Settings.of({"budget": budget}).budget)) == "300 calls"


def test_numpy_values_are_taken_as_plain_ones() -> None:
    settings = Settings.of({"shots": np.int64(4), "scale": np.float32(0.5), "head": np.str_("k")})
    assert (settings.shots, settings.scale, settings.head) == (4, 0.5, "k")
    assert type(settings.shots) is int


def test_numpy_values_in_a_mapping_are_plain_ones_too() -> None:
    told = {"rank": np.int64(2), "lora": {"targets": np.str_("v_proj")}}
    settings = Settings.of({"delta": "lora", "delta_settings": told})
    assert settings.delta_settings == {"rank": 2, "lora.targets": "v_proj"}
    assert type((settings.delta_settings or {})["rank"]) is int


@pytest.mark.parametrize("kind", [int, np.int64, str])
def test_labels_that_are_numbers_go_by_their_names(kind: Any) -> None:
    settings = Settings.of({"label_words": MappingProxyType({kind(0): "no", kind(1): "yes"})})
    assert settings.label_words == {"0": "no", "1": "yes"}


def test_an_unknown_name_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(
        ConfigError, match="no setting 'shot'; the settings are recipe, shots, seed,"
    ):
        Settings.of({"shot": 4})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recipe", "grandmother's"),
        ("recipe", 1),
        ("without", "anchor"),
        ("without", ["anchors"]),
        ("max_queries_per_example", 0),
        ("shots", "4"),
        ("shots", 4.0),
        ("shots", True),
        ("shots", 0),
        ("seed", -1),
        ("budget", 300.0),
        ("template", 3),
        ("label_words", ["good", "bad"]),
        ("label_words", {"pos": 1}),
        ("soft_tokens", 0),
        ("soft_init", 1),
        ("dimension", 0),
        ("scale", 0.0),
        ("scale", float("nan")),
        ("scale", float("inf")),
        ("population", 1),
        ("price_in", -0.1),
        ("price_in", float("nan")),
        ("price_out", float("inf")),
        ("price_out", "1"),
        ("head", 1),
        ("max_test", 0),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}\b.* = "):
        Settings.of({name: value})


def test_names_with_dots_may_be_tables_as_in_toml() -> None:
    told = tomllib.loads('delta = "lora+ia3"\n[delta_settings]\nlora.rank = 2\ndelta.targets = "v"')
    flat = {"lora.rank": 2, "delta.targets": "v"}
    assert Settings.of(told).delta_settings == flat
    assert Settings.of({"delta": "lora+ia3", "delta_settings": flat}) == Settings.of(told)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"rank": [1]}, r"^rank = \[1\] is neither a whole number nor a text$"),
        ({"lora": {"rank": True}}, "^lora.rank = True is neither"),
        ({"rank": 2.5}, "^rank = 2.5 is neither"),
        ({"lora": {"rank": {"k": 1}}}, "^lora.rank = {'k': 1} is neither"),
        ("rank=2", "^delta_settings = 'rank=2': input should be a valid dictionary"),
    ],
)
def test_what_is_no_setting_of_a_delta_is_refused_in_one_sentence(told: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.of({"delta": "lora", "delta_settings": told})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="shots = 0.*; seed = -1"):
        Settings.of({"shots": 0, "seed": -1})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().shots = 3  # type: ignore[misc]


def test_prices_come_both_or_not_at_all() -> None:
    assert Settings().prices is None
    assert Settings.of({"price_in": 0.15, "price_out": 0}).prices == Prices(0.15, 0.0)
    with pytest.raises(ConfigError, match="price_out is missing"):
        _ = Settings.of({"price_in": 0.15}).prices
    with pytest.raises(ConfigError, match="price_in is missing"):
        _ = Settings.of({"price_out": 0.15}).prices


@pytest.mark.parametrize(("name", "value"), [("population", 21), ("objective", "hinge")])
def test_what_auto_would_not_look_at_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is for the recipe 'search'"):
        Settings.of({name: value})
    assert getattr(Settings.of({name: value, "recipe": "search"}), name) == value
    assert Settings.of(Settings().model_dump()) == Settings()


@pytest.mark.parametrize(("name", "value"), [("without", "words"), ("max_queries_per_example", 1)])
def test_what_search_would_not_look_at_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is for the recipe 'auto'; leave .* 'search'"):
        Settings.of({name: value, "recipe": "search"})
    assert getattr(Settings.of({name: value}), name) == value
    defaults = Settings(recipe="search")
    assert Settings.of(defaults.model_dump()) == defaults
    assert Settings.of({"recipe": "search", "without": ""}).left_out == set()
