"""The line that says what a run is about to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.display import plan_line
from blackbox_delta.errors import ConfigError, TemplateError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.types import Example

TWO_OF_EACH = tuple(Example(f"text {n}", label=label) for n in range(2) for label in "ab")
SPLIT = FewShotSplit(TWO_OF_EACH, TWO_OF_EACH[:3], (), shots=2, seed=0)


def test_the_plan_names_model_budget_examples_and_search_space() -> None:
    settings = Settings(recipe="search", budget="2M tokens", population=7, dimension=30)
    line = plan_line("fake", SPLIT, settings)
    for part in ("fake:", "2000000 tokens", "4 training", "3 development", "2 classes"):
        assert part in line
    assert "λ = 7, d = 30, cma-diagonal" in line


def test_the_plan_of_auto_speaks_of_views() -> None:
    settings = Settings(budget="2M tokens", max_queries_per_example=4)
    assert plan_line("fake", SPLIT, settings) == (
        "fake: 2000000 tokens at most, 4 training examples of 2 classes; several views of each, "
        "an answer takes at most 4 queries"
    )
    alone = settings.model_copy(update={"max_queries_per_example": 1})
    assert plan_line("fake", SPLIT, alone).endswith("an answer takes at most 1 query")


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_the_plan_names_the_test_which_no_budget_bounds(recipe: str) -> None:
    settings = Settings.of({"recipe": recipe, "budget": "$2.50", "price_in": 1, "price_out": 1})
    tested = replace(SPLIT, test=TWO_OF_EACH * 300)
    assert plan_line("fake", tested, settings).endswith("; a test of 1,200 examples besides")
    assert "test" not in plan_line("fake", SPLIT, settings)


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_the_plan_says_that_every_seed_may_spend_the_budget(recipe: str) -> None:
    settings = Settings.of({"recipe": recipe, "budget": "2M tokens"})
    line = plan_line("fake", SPLIT, settings, seeds=3)
    assert "fake: 2000000 tokens at most for each of 3 seeds, 4 training" in line
    assert "seeds" not in plan_line("fake", SPLIT, settings)


def test_the_plan_says_when_nothing_is_searched() -> None:
    line = plan_line("fake", SPLIT, Settings(recipe="search", template="{text} It was {label}"))
    assert "output side alone" in line
    assert "λ" not in line


def test_the_plan_says_what_a_text_only_model_leaves_to_search() -> None:
    able = FakeBackend(accepts=()).capabilities
    search = Settings(recipe="search")
    assert "takes text only, so the output side" in plan_line("fake", SPLIT, search, able)
    assert "λ = 20" in plan_line("fake", SPLIT, search, FakeBackend().capabilities)


def test_the_plan_knows_money() -> None:
    priced = Settings(budget="$2.50", price_in=0.15, price_out=0.6)
    assert "fake: $2.50 at most" in plan_line("fake", SPLIT, priced)
    with pytest.raises(ConfigError, match="price_in"):
        plan_line("fake", SPLIT, Settings(budget="$2.50"))


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_the_plan_refuses_a_template_that_cannot_be_read(recipe: str) -> None:
    with pytest.raises(TemplateError):
        plan_line("fake", SPLIT, Settings.of({"recipe": recipe, "template": "{text}"}))
