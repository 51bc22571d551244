from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.compare.specs import Spec, parse_specs
from blackbox_delta.errors import ConfigError

NUMBER = st.none() | st.integers(1, 10**6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("calibrated", Spec("calibrated")),
        ("bbt:500", Spec("bbt", 500)),
        ("lora@64", Spec("lora", None, 64)),
        (" bbtv2-style:20@8 ", Spec("bbtv2-style", 20, 8)),
        ("auto:16-search-words@4", Spec("auto", 16, 4, ("search", "words"))),
    ],
)
def test_what_a_method_s_name_says(text: str, expected: Spec) -> None:
    assert Spec.parse(text) == expected


@given(st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True), NUMBER, NUMBER)
def test_a_spec_is_read_as_it_is_written(name: str, calls: int | None, shots: int | None) -> None:
    spec = Spec(name, calls, shots)
    assert Spec.parse(str(spec)) == spec


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = Spec.parse(text)
    except ConfigError:
        return
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["", "bbt:", "bbt:0", "lora@0", "lora@8:2", "Lora", "a b", "a:-1"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Spec.parse(text)


def test_methods_may_stand_between_commas_or_apart() -> None:
    specs = parse_specs(["untuned,auto:1", "auto:4", "untuned,"])
    assert list(map(str, specs)) == ["untuned", "auto:1", "auto:4"]


def test_no_method_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no method"):
        parse_specs([" , "])
