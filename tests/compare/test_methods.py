from __future__ import annotations

import subprocess
import sys

import pytest

from blackbox_delta.compare.methods import DEFAULTS, GRADIENTS, Contender, method_names
from blackbox_delta.compare.specs import Spec
from blackbox_delta.errors import ConfigError


def of(text: str) -> Contender:
    return Contender.of(Spec.parse(text))


@pytest.mark.parametrize(
    "name", [*DEFAULTS, "bbt", "bbt:500", "search-lora+bitfit:8", "head-ridge", "start-ridge"]
)
def test_a_method_without_gradients_is_made_by_name(name: str) -> None:
    contender = of(name)
    method = contender.make(None)
    assert method.name.partition(":")[0] == name.partition(":")[0]
    assert not contender.takes_rate
    assert not contender.needs_weights


def test_the_budget_reaches_the_method() -> None:
    assert of("bbt:500").make(None).settings["budget"] == "500 calls"
    assert of("bbt").make(None).settings["budget"] == "8000 calls"
    assert of("auto:16").make(None).settings["budget"] == "16 calls"
    assert of("search-prefix:16").make(None).settings["budget"] == "16 calls"
    assert of("search-prefix").make(None).settings["budget"] == "300 calls"


def test_a_head_of_one_s_choice_is_named() -> None:
    assert of("head-nearest").make(None).settings == {"head": "nearest"}
    starts = ["\nIn one word, it is", "\nCategory:"]
    assert of("start-ridge").make(None).settings == {"head": "ridge", "starts": starts}
    for kind in ("head", "start"):
        with pytest.raises(ConfigError, match="'neck'"):
            of(f"{kind}-neck")
        with pytest.raises(ConfigError, match="budget in calls"):
            of(f"{kind}-ridge:5")


def test_the_delta_of_a_search_is_in_its_name() -> None:
    method = of("search-lora+bitfit:16").make(None)
    assert method.name == "search-lora+bitfit:16"
    assert method.settings["delta"] == "lora+bitfit"
    stages = of("search-soft-prompt-then-lora+bitfit:16").make(None)
    assert stages.name == "search-soft-prompt-then-lora+bitfit:16"
    assert stages.settings["delta"] == "soft-prompt,lora+bitfit"
    with pytest.raises(ConfigError, match="no delta 'magic'; choose among"):
        of("search-lora-then-magic:16")
    with pytest.raises(ConfigError, match="no delta 'magic'; choose among"):
        of("search-magic:16")


def test_parts_are_left_out_of_auto_alone() -> None:
    method = of("auto:16-search-words").make(None)
    assert method.settings["without"] == "search,words"
    assert method.name == "auto:16-search-words"
    assert of("auto:16").make(None).settings["without"] is None
    with pytest.raises(ConfigError, match="auto has no part 'nonsense' to leave out; it has words"):
        of("auto:16-nonsense")
    with pytest.raises(ConfigError, match="bbt has no part 'search' to leave out$"):
        of("bbt:500-search")


def test_gradient_methods_are_those_that_there_are() -> None:
    gradients = pytest.importorskip("blackbox_delta.compare.gradients")
    assert set(GRADIENTS) == set(gradients.GRIDS)
    for name in GRADIENTS:
        contender = of(name)
        assert contender.takes_rate
        assert contender.needs_weights
        assert contender.make(None).settings["learning_rates"] == list(gradients.GRIDS[name])
        assert contender.make((0.25,)).settings["learning_rates"] == [0.25]
    assert of("bbtv2-style:20").make(None).settings["calls"] == 20


@pytest.mark.parametrize(("package", "extra"), [("peft", "compare"), ("torch", "local")])
def test_a_missing_package_is_named_with_its_extra(package: str, extra: str) -> None:
    script = f"""
import subprocess
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from blackbox_delta.compare.methods import Contender
from blackbox_delta.compare.specs import Spec
from blackbox_delta.errors import MissingExtraError
try:
    Contender.of(Spec("lora")).make(None)
except MissingExtraError as error:
    print(error)
"""
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert f"'{package}'" in said
    assert f"pip install 'blackbox-delta[{extra}]'" in said


def test_an_unknown_method_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        of("magic")
    assert all(name in str(caught.value) for name in method_names())


@pytest.mark.parametrize("text", ["untuned:5", "lora:300"])
def test_a_budget_for_a_method_without_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget in calls"):
        of(text)
