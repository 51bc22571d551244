from __future__ import annotations

import inspect
from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import blackbox_delta
from blackbox_delta.api import describe, forecast, tune
from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME
from blackbox_delta.backends import open_backend
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.errors import (
    BlackBoxDeltaError,
    BudgetError,
    ConfigError,
    DataError,
    JournalError,
    ModelError,
    RunError,
    TemplateError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.journal import summarise
from blackbox_delta.report import time_free
from blackbox_delta.runs import JOURNAL_NAME, RUN_NAME, read_result
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import DEFAULT_STARTS, Columns, draw_split, load_task, task_from_lists
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import Progress
from blackbox_delta.types import Prompt, ScoreRequest, Scores, Sink, SoftSlot, Words

SUPPORT = str(files("blackbox_delta.data") / "support")
TASK = load_task(SUPPORT)
SPLIT = draw_split(TASK, shots=2, seed=0, max_test=10)
SMALL: dict[str, Any] = {"shots": 2, "budget": "6 calls", "max_test": 10}
SEARCHED = {"dimension": 20, "soft_tokens": 3, "population": 4}
SEARCH: dict[str, Any] = {**SMALL, **SEARCHED, "recipe": "search", "budget": "12 calls"}
#: What is said of a search is refused where there is none.
UNSEARCHED = dict.fromkeys(SEARCHED)
BOTH = pytest.mark.parametrize("given", [SEARCH, SMALL], ids=["search", "auto"])


RECIPE_AUTO = {"recipe": "auto"}
FILMS = ["this film with the blue door was", "the story of a big cold city is", "we found it"]
FILMS += ["all the songs in it were", "my friends and I think that it was"]
MOODS = {"a joy": "good", "a bore": "bad"}
FILM_WORDS = {"good": "great", "bad": "terrible"}


class Recording(FakeBackend):
    """Remembers what it was asked."""

    def __init__(self, **knobs: Any) -> None:
        super().__init__(**knobs)
        self.asked: list[list[Prompt]] = []

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        self.asked.append(list(request.prompts))
        return super().score(request, sink)


def texts_of(asked: list[list[Prompt]]) -> set[str]:
    """The users' texts in some requests."""
    segments = [part for prompts in asked for prompt in prompts for part in prompt.segments]
    return {part.text for part in segments if isinstance(part, Words) and part.truncatable}


def test_the_package_offers_it() -> None:
    assert blackbox_delta.tune is tune


def test_a_name_and_a_folder_are_enough() -> None:
    model = tune("fake", SUPPORT, **SMALL)
    assert model.result["model"] == "fake"
    assert model.predict(["my parcel is late"])[0] in TASK.labels


@pytest.mark.parametrize("data", [SUPPORT, Path(SUPPORT), TASK, SPLIT])
def test_all_kinds_of_data_give_the_same_run(data: Any) -> None:
    expected = tune(FakeBackend(), SUPPORT, **SMALL)
    model = tune(FakeBackend(), data, **SMALL)
    assert time_free(model.result) == time_free(expected.result)


def test_columns_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("t,l\none,a\ntwo,b\nthree,a\nfour,b\n")
    columns = Columns(text="t", label="l")
    model = tune(FakeBackend(), path, columns=columns, **{**SMALL, "shots": 1})
    assert model.labels == ("a", "b")


def test_a_split_says_how_many_shots_it_has() -> None:
    model = tune(FakeBackend(), SPLIT, **{**SMALL, "shots": None})
    assert model.result["shots"] == 2


def test_auto_is_the_default() -> None:
    default, named = (tune(FakeBackend(), SPLIT, **SMALL, **own) for own in ({}, RECIPE_AUTO))
    assert default.result["recipe"] == Settings().recipe == "auto"
    assert time_free(default.result) == time_free(named.result)
    assert tune(FakeBackend(), SPLIT, **SEARCH).result["recipe"] == "search"


def test_auto_looks_at_no_development_example() -> None:
    backend = Recording()
    result = tune(backend, SPLIT, **SMALL).result
    without = tune(FakeBackend(), replace(SPLIT, dev=()), **SMALL).result
    assert time_free(result) == time_free(without)
    assert not {example.text for example in SPLIT.dev} & texts_of(backend.asked)


@BOTH
def test_a_folder_changes_nothing_but_what_is_kept(given: dict[str, Any], tmp_path: Path) -> None:
    kept = tune(FakeBackend(), SPLIT, out=tmp_path / "run", **given)
    lost = tune(FakeBackend(), SPLIT, **given)
    assert time_free(kept.result) == time_free(lost.result)
    texts = [example.text for example in SPLIT.test]
    np.testing.assert_array_equal(kept.log_proba(texts), lost.log_proba(texts))
    assert read_result(tmp_path / "run") == kept.result


@pytest.mark.parametrize("starts", [DEFAULT_STARTS, DEFAULT_STARTS[::-1]])
def test_what_is_kept_is_that_of_the_start_that_won(
    starts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same, to the bit, as had the user named its words and spared the other start's call."""
    monkeypatch.setattr("blackbox_delta.problem.starts.DEFAULT_STARTS", starts)
    open_choice = {**SEARCH, "head": "calibrated", "budget": "101 calls"}
    tuned = tune(FakeBackend(), SPLIT, out=tmp_path / "open", **open_choice)
    own_words = {**open_choice, "soft_init": f"text:{tuned.result['start']}", "budget": "100 calls"}
    own = tune(FakeBackend(), SPLIT, out=tmp_path / "own", **own_words)
    assert tuned.result["start"] in starts
    assert own.result["start"] == tuned.result["start"]
    for name in (JSON_NAME, ARRAYS_NAME):
        assert (tmp_path / "open" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    texts = [example.text for example in SPLIT.test]
    expected = own.log_proba(texts)
    np.testing.assert_array_equal(tuned.log_proba(texts), expected)
    loaded = TunedModel.load(tmp_path / "open", backend=FakeBackend())
    np.testing.assert_array_equal(loaded.log_proba(texts), expected)


@pytest.mark.parametrize("budget", ["60 calls", "600 queries"])
def test_an_optimizer_that_must_know_the_budget_is_told(budget: str) -> None:
    settings = {**SEARCH, "optimizer": "nevergrad:NGOpt", "budget": budget}
    result = tune(FakeBackend(), SPLIT, **settings).result
    assert result["generations"] > 4
    assert result["calls"] <= 60


@BOTH
def test_the_test_part_is_sent_last(given: dict[str, Any]) -> None:
    backend = Recording()
    told: list[Progress] = []
    model = tune(backend, SPLIT, observer=told.append, **given)
    tests = {example.text for example in SPLIT.test}
    about_tests = [bool(tests & texts_of([prompts])) for prompts in backend.asked]
    first = about_tests.index(True)
    assert all(about_tests[first:])
    assert not any(about_tests[:first])
    queries = sum(len(prompts) for prompts in backend.asked[first:])
    assert queries == model.result["test_queries"]
    searching = [progress for progress in told if not progress.to_test]
    testing = told[len(searching) :]
    if given is SEARCH:
        assert len(searching) == model.result["generations"]
    assert {progress.what for progress in told} == {"generations" if given is SEARCH else "views"}
    spent = [progress.budget.fraction_spent for progress in searching]
    assert spent == sorted(spent) != []
    assert testing[-1].tested == testing[-1].to_test == model.result["test_queries"]


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("recipe", ["search", "auto"])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"template": "{text} {soft}"}, TemplateError),
        ({"template": "{text} {nonsense} {label}"}, TemplateError),
        ({"template": "{text} {label} and more"}, UnsupportedError),
        ({"label_words": {"account": "a"}}, VerbalizerError),
        ({"label_words": dict.fromkeys(TASK.labels, "same")}, VerbalizerError),
        ({"budget": "9 queries"}, BudgetError),
        ({"budget": "20 tokens"}, BudgetError),
        ({"budget": "many"}, ConfigError),
        ({"dimension": 49}, ConfigError),
        ({"head": "tail"}, ConfigError),
        ({"optimizer": "sgd"}, ConfigError),
        ({"optimizer": "nevergrad:sgd"}, ConfigError),
        ({"soft_init": "none"}, ConfigError),
        ({"subspace": "cauchy"}, ConfigError),
        ({"nonsense": 1}, ConfigError),
        ({"shots": 100}, DataError),
    ],
)
def test_what_cannot_work_costs_nothing_and_leaves_nothing(
    change: dict[str, Any],
    error: type[BlackBoxDeltaError],
    recipe: str,
    out: bool,
    tmp_path: Path,
) -> None:
    backend = FakeBackend()
    folder = tmp_path / "run" if out else None
    given = {**SEARCH, "recipe": recipe}
    if recipe == "auto":
        del given["population"]  # the search's own
    with pytest.raises(error):
        tune(backend, TASK, out=folder, **{**given, **change})
    assert backend.calls == 0
    assert not list(tmp_path.iterdir()), "the same folder can be used once the mistake is mended"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"budget": "7 calls"}, BudgetError),
        ({"budget": "79 queries"}, BudgetError),
        ({"objective": "glory"}, ConfigError),
    ],
)
def test_what_a_search_cannot_do_costs_nothing(
    change: dict[str, Any], error: type[BlackBoxDeltaError]
) -> None:
    backend = FakeBackend()
    with pytest.raises(error):
        tune(backend, TASK, **{**SEARCH, **change})
    assert backend.calls == 0


@BOTH
def test_a_text_only_backend_refuses_soft_prompts(given: dict[str, Any], tmp_path: Path) -> None:
    backend = FakeBackend(accepts=frozenset())
    for soft in ({"template": "{text}{soft} It is {label}"}, {"soft_init": "zero"}):
        with pytest.raises(UnsupportedError, match="takes no soft"):
            tune(backend, SPLIT, out=tmp_path / "run", **given, **soft)
        assert backend.calls == 0


def test_auto_asks_a_text_only_backend_about_words_alone() -> None:
    backend = Recording(accepts=frozenset())
    model = tune(backend, SPLIT, **SMALL)
    assert all(member.delta is None for member in model.members)
    prompts = [prompt for asked in backend.asked for prompt in asked]
    assert not any(isinstance(part, SoftSlot) for prompt in prompts for part in prompt.segments)
    assert any(DEFAULT_STARTS[0] in getattr(prompt.segments[-2], "text", "") for prompt in prompts)


def test_a_text_only_backend_is_asked_nothing_about_soft_prompts(tmp_path: Path) -> None:
    backend = Recording(accepts=frozenset())
    unsearched = {**SEARCH, **UNSEARCHED}
    model = tune(backend, SPLIT, out=tmp_path / "run", **unsearched)
    # Each start's words stand in the template; the better one's development examples.
    assert model.result["calls"] == len(DEFAULT_STARTS) + 1
    assert model.result["generations"] == 0
    assert model.result["chosen"] in {"calibrated", "head"}
    asked = [
        segment for prompts in backend.asked for prompt in prompts for segment in prompt.segments
    ]
    assert not any(isinstance(segment, SoftSlot) for segment in asked)
    words = "".join(segment.text for segment in asked if isinstance(segment, Words))
    assert all(start in words for start in DEFAULT_STARTS)
    own = tune(backend, SPLIT, template="{text} It is {label}", **unsearched)
    assert own.result["calls"] == 2


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ("/no/such/folder", SMALL),
        (replace(SPLIT, dev=()), SEARCH),
        (replace(SPLIT, train=SPLIT.train[:1]), SMALL),
        (replace(SPLIT, train=()), SMALL),
        ((["a", "b"], ["x", "y"]), SMALL),
        (None, SMALL),
        (SPLIT, {**SMALL, "recipe": "auto", "unlabeled": 5}),
    ],
)
def test_data_that_cannot_be_used_cost_nothing(data: Any, given: dict[str, Any]) -> None:
    backend = FakeBackend()
    with pytest.raises(DataError):
        tune(backend, data, **given)
    assert backend.calls == 0


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="two classes"):
        tune("fake", task_from_lists(["a", "b"], ["x", "x"]), **SMALL)


@pytest.mark.parametrize("model", [None, 5, object()])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for run in (tune, forecast):
        with pytest.raises(ConfigError, match="a model's name or an open backend"):
            run(model, SPLIT, **SMALL)


def test_a_model_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="fakery"):
        FakeBackend("fakery")


def test_a_used_folder_costs_nothing(tmp_path: Path) -> None:
    tune(FakeBackend(), SPLIT, out=tmp_path, **SMALL)
    for more in ({}, {"resume": True, "seed": 1}):
        backend = FakeBackend()
        with pytest.raises(RunError):
            tune(backend, SPLIT, out=tmp_path, **SMALL, **more)  # type: ignore[arg-type]
        assert backend.calls == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, r"settings\.seed: 0 then, 5 now"),
        ({"budget": "7 calls"}, r"settings\.budget: '9 calls' then, '7 calls' now"),
        ({"recipe": "search", "population": 4}, r"settings\.recipe: 'auto' then, 'search' now"),
        ({"model": FakeBackend("fake:other")}, "model: 'fake' then, 'fake:other' now"),
        ({"data": replace(SPLIT, test=SPLIT.test[1:])}, "data: "),
    ],
)
def test_another_run_is_not_resumed_and_the_difference_is_named(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    before: dict[str, Any] = {"model": FakeBackend(), "data": SPLIT, **SMALL, "budget": "9 calls"}
    tune(out=tmp_path, **before)
    with pytest.raises(RunError, match=named):
        tune(out=tmp_path, resume=True, **{**before, **change})


def test_what_cannot_be_called_is_no_observer() -> None:
    backend = FakeBackend()
    wrong: Any = 5
    with pytest.raises(ConfigError, match="observer must be a function, not a int"):
        tune(backend, SPLIT, observer=wrong, **SMALL)
    assert backend.calls == 0


def test_resuming_and_sharing_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume needs a run folder"):
        tune("fake", SPLIT, resume=True, **SMALL)
    with pytest.raises(ConfigError, match="cache needs a run folder"):
        tune("fake", SPLIT, cache=tmp_path / "cache", **SMALL)
    assert not list(tmp_path.iterdir())


def test_resuming_may_be_the_first_start(tmp_path: Path) -> None:
    started = tune(FakeBackend(), SPLIT, out=tmp_path / "run", resume=True, **SMALL)
    assert (tmp_path / "run" / RUN_NAME).exists()
    assert started.result["calls"] == 6


# ------------------------------------------------------------------ the shared cache


@BOTH
def test_runs_share_what_was_paid(given: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    first, second = Recording(), Recording()
    one = tune(first, SPLIT, out=tmp_path / "one", cache=cache, **given)
    two = tune(second, SPLIT, out=tmp_path / "two", cache=str(cache), **given)
    assert first.asked
    assert not second.asked
    # Times too: they are those that were paid for.
    assert two.result["backend_seconds"] == one.result["backend_seconds"]
    assert time_free(two.result) == time_free(one.result)
    for name in (JSON_NAME, ARRAYS_NAME):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    paid, shared = (summarise(tmp_path / name / JOURNAL_NAME).total for name in ("one", "two"))
    assert (paid.cached, shared.sent) == (0, 0)
    assert paid.replies == shared.replies == shared.cached == first.queries


@BOTH
def test_a_cache_serves_what_another_search_asked_too(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """Another budget is another run, whose first steps are the same."""
    cache, longer = tmp_path / "cache.sqlite", Recording()
    tune(FakeBackend(), SPLIT, out=tmp_path / "short", cache=cache, **given)
    tune(longer, SPLIT, out=tmp_path / "long", cache=cache, **{**given, "budget": "24 calls"})
    total = summarise(tmp_path / "long" / JOURNAL_NAME).total
    assert total.cached
    assert total.usage.queries == longer.queries > 0


def test_a_run_without_its_cache_is_resumed_from_its_own_journal(tmp_path: Path) -> None:
    cache, again = tmp_path / "cache.sqlite", Recording()
    for name in ("one", "two"):
        tune(FakeBackend(), SPLIT, out=tmp_path / name, cache=cache, **SMALL)
    cache.unlink()
    tune(again, SPLIT, out=tmp_path / "two", resume=True, **SMALL)
    assert not again.asked


def test_a_file_that_is_no_cache_costs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    notes, backend = tmp_path / "notes.txt", FakeBackend()
    notes.write_text("mine")
    with pytest.raises(JournalError, match=r"notes\.txt"):
        tune(backend, SPLIT, out=tmp_path / "run", cache=notes, **SMALL)
    assert backend.calls == 0
    assert list(tmp_path.iterdir()) == [notes]
    assert notes.read_text() == "mine"


# ------------------------------------------------------------------ the forecast

PRICES = {"price_in": 0.5, "price_out": 2.0}


@pytest.mark.parametrize("data", [SUPPORT, SPLIT])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"budget": "700 queries"},
        {"budget": "20k tokens", **PRICES},
        {"budget": "$0.01", **PRICES},
        {"head": "contextual", "optimizer": "random"},
        {"template": "{text} It is {label}", **UNSEARCHED},
    ],
    ids=str,
)
def test_a_forecast_of_a_search_is_what_the_run_then_spends(
    change: dict[str, Any], data: Any
) -> None:
    settings = {**SEARCH, **change}
    asked = Recording()
    told = forecast(asked, data, **settings)
    assert not asked.asked
    assert told.exact
    result = tune(FakeBackend(), data, **settings).result
    start = next(start for start in told.starts if start.words == result["start"])
    search = start.search
    for name in ("calls", "queries", "tokens", "output_tokens", "generations"):
        assert getattr(search, name) == result[name], name
    assert search.usd == (None if result["cost_usd"] is None else pytest.approx(result["cost_usd"]))
    test = start.test_most if result["chosen"] == "delta" else start.test_least
    assert (test.queries, test.tokens) == (result["test_queries"], result["test_tokens"])


@pytest.mark.parametrize(
    "change", [{"tier": "text"}, {"api": "chat"}, {"api": "chat", "tier": "text"}, {}], ids=str
)
def test_a_forecast_through_an_api_is_close(change: dict[str, str], toy_server: Any) -> None:
    """The server counts words; after a probe that is estimated from bytes."""
    texts = [f"{film} {mood} {n}" for n, (film, mood) in enumerate(product(FILMS, MOODS))]
    data = task_from_lists(texts, [*MOODS.values()] * len(FILMS))
    endpoint = Endpoint.of({"base_url": toy_server.url, **change})
    backend = open_backend(None, endpoint=endpoint)
    settings = {"recipe": "search", "shots": 2, "label_words": FILM_WORDS, **PRICES}
    before = toy_server.received.total()
    told = forecast(backend, data, **settings)
    assert toy_server.received.total() == before
    assert not told.exact
    result = tune(backend, data, **settings).result
    backend.close()
    start = next(start for start in told.starts if start.words == result["start"])
    assert start.search.queries == result["queries"] == toy_server.received.total() - before
    assert start.search.calls == result["calls"]
    assert start.search.tokens == pytest.approx(result["tokens"], rel=0.1)
    assert start.search.output_tokens >= result["output_tokens"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"budget": "1 call"},
        {"budget": "30 queries"},
        {"budget": "4k tokens", **PRICES},
        {"budget": "$0.002", **PRICES},
        {"template": "{text} It is {label}", "without": "words"},
        {"shots": 4, "budget": "40 calls"},
    ],
    ids=str,
)
def test_a_forecast_of_auto_is_never_exceeded(change: dict[str, Any]) -> None:
    settings = {**SMALL, **change}
    asked = Recording()
    told = forecast(asked, SUPPORT, **settings)
    assert not asked.asked
    result = tune(FakeBackend(), SUPPORT, **settings).result
    for name in ("queries", "tokens", "output_tokens"):
        most = max(getattr(start.search, name) for start in told.starts)
        assert result[name] <= most, name
    # What is sure to be spent: the first view, and the baseline's answers on the test part.
    assert min(start.search.queries for start in told.starts) >= 10
    assert min(start.test_least.queries for start in told.starts) == 10


@BOTH
def test_what_cannot_run_cannot_be_foretold(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="how fast the model answers"):
        forecast(FakeBackend(), SPLIT, **{**given, "budget": "10 min"})
    with pytest.raises(BudgetError, match="too small"):
        forecast(FakeBackend(), SPLIT, **{**given, "budget": "9 queries"})
    with pytest.raises(ConfigError, match="price_out is missing"):
        forecast(FakeBackend(), SPLIT, **given, price_in=1.0)


# ------------------------------------------------------------------ budgets


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    share=st.floats(0.04, 1),
    unit=st.sampled_from(["calls", "queries", "tokens"]),
    seed=st.integers(0, 3),
    kind=st.sampled_from([{}, {"head": "calibrated"}, {"template": "{text} It is {label}"}]),
)
def test_auto_never_exceeds_its_budget(
    share: float, unit: str, seed: int, kind: dict[str, Any]
) -> None:
    limit = int(share * {"calls": 50, "queries": 600, "tokens": 20_000}[unit])
    backend = Recording()
    model = tune(backend, TASK, shots=3, seed=seed, max_test=1, budget=f"{limit} {unit}", **kind)
    result = model.result
    tests = result["test_queries"]
    assert backend.queries - tests == result["queries"]
    spent = {**result, "calls": result["queries"] / 15}  # a call is all training examples once
    assert spent[unit] <= limit
    assert result["calls"] == pytest.approx(spent["calls"])


# ------------------------------------------------------------------ descriptions


def test_equal_descriptions_mean_equal_runs() -> None:
    one = describe(FakeBackend(), SPLIT, Settings())
    assert one == describe(FakeBackend(), SPLIT, Settings())
    others = [
        describe(FakeBackend("fake:other"), SPLIT, Settings()),
        describe(FakeBackend(), replace(SPLIT, dev=SPLIT.dev[1:]), Settings()),
        *(
            describe(FakeBackend(), SPLIT, Settings.of({name: value}))
            for name, value in {"seed": 1, "dimension": 21, "scale": 2.0, "template": "x"}.items()
        ),
    ]
    assert all(other != one for other in others)


def test_a_description_says_how_a_server_is_used(toy_server: Any) -> None:
    def described(**change: Any) -> Any:
        endpoint = Endpoint.of({"base_url": toy_server.url, **change})
        with closing(open_backend(None, endpoint=endpoint)) as backend:
            return describe(backend, SPLIT, Settings())

    one = described()
    assert one["access"]["tier"] == "top-tokens"
    assert described(concurrency=3) == one, "how fast it is asked is no part of a run"
    assert described(tier="text") != one
    assert describe(FakeBackend(), SPLIT, Settings())["access"] is None


def test_only_settings_are_taken_by_name() -> None:
    own = set(inspect.signature(tune).parameters) - {"settings"}
    assert not own & set(Settings.model_fields)


def test_a_model_is_not_saved_over_another_run(tmp_path: Path) -> None:
    tuned = tune(FakeBackend(), SPLIT, out=tmp_path / "run", **SMALL)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match="holds a run, whose result would then tell of another"):
        tuned.save(tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    tuned.save(tmp_path / "alone")
    tuned.save(tmp_path / "alone")  # nothing but a model is there
    assert TunedModel.load(tmp_path / "alone", backend=FakeBackend()).labels == tuned.labels


@pytest.mark.parametrize("recipe", ["auto", "search"])
def test_a_budget_that_nothing_is_taken_from_is_refused(recipe: str) -> None:
    free: dict[str, Any] = {"budget": "$1", "price_in": 0, "price_out": 0}
    with pytest.raises(ConfigError, match="costs nothing"):
        tune(FakeBackend(), SPLIT, recipe=recipe, **free)
