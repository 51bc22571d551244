"""A search over a delta inside a tiny model, from data to a saved run, its answers and PEFT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox_delta.api import tune
from blackbox_delta.artifact import Artifact
from blackbox_delta.deltas import Composition, Prefix
from blackbox_delta.errors import (
    BlackBoxDeltaError,
    BudgetError,
    ConfigError,
    ExportError,
    UnsupportedError,
)
from blackbox_delta.exports import export_peft
from blackbox_delta.heads import make_head
from blackbox_delta.members import Member
from blackbox_delta.problem import build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.tuner import loop
from blackbox_delta.types import DeltaBatch, Example, ScoreRequest

WORDS = {"good": ["great", "wonderful", "good"], "bad": ["terrible", "bad", "dull"]}
EXAMPLES = tuple(
    Example(f"the {what} was {word}", None, label)
    for label, words in WORDS.items()
    for word in words
    for what in ("film", "plot", "acting")
)
SPLIT = FewShotSplit(EXAMPLES[::2], EXAMPLES[1::2], (), 0, 4)
TEMPLATE = "{text}. It was {label}"
SEARCH = {
    "recipe": "search",
    "population": 4,
    "budget": "30 calls",
    "head": "calibrated",
    "scale": 1.0,
    "dimension": 20,
}


#: Architectures, and what is tuned in them.
CASES = [
    ("llama", "lora"),
    ("llama", "prefix"),
    ("gpt2", "adapter+bitfit"),
    ("bert", "ia3"),
    ("bert", "prefix"),
    ("t5", "lora+bitfit"),
    ("bart", "prefix"),
    ("t5", "prefix+lora"),
    ("llama", "soft-prompt+lora"),
    ("llama", "deep-prompt"),
    ("llama", "soft-prompt,lora"),
    ("bert", "sparse"),
]


def template_for(delta: str) -> str:
    return TEMPLATE.replace(". It", "{soft:2}. It") if "prompt" in delta else TEMPLATE


def untuned_loss(backend: Any, delta: str) -> float:
    """The search's objective at z = 0, from the backend's answers alone."""
    settings = Settings(recipe="search", delta=delta, template=template_for(delta), dimension=20)
    problem = build_problem(backend, SPLIT, settings)
    assert problem.frame is not None
    at_zero = problem.delta(np.zeros(problem.frame.subspace.dimension))
    [seen] = backend.score(problem.request(problem.train.prompts, at_zero))
    labels = problem.train.labels
    log_proba = make_head("calibrated").fit(seen, labels, None).log_proba(seen)
    return -float(log_proba[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize(("model", "delta"), CASES)
def test_a_search_lowers_the_loss(model: str, delta: str, tiny: Any, tmp_path: Path) -> None:
    losses: list[float] = []

    tuned = tune(
        tiny(model).wrap(),
        SPLIT,
        delta=delta,
        template=template_for(delta),
        out=tmp_path / "run",
        observer=lambda progress: losses.append(progress.best_loss),
        **{**SEARCH, "budget": "100 calls"},
    )

    assert losses[-1] < 0.9 * untuned_loss(tiny(model).wrap(), delta.split(",", maxsplit=1)[0])
    assert tuned.result["delta"]["kind"] == delta.replace(",", "+")
    texts = [example.text for example in EXAMPLES]
    again = TunedModel.load(tmp_path / "run", backend=tiny(model).wrap())
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


@pytest.mark.parametrize(("model", "delta"), CASES)
def test_a_saved_delta_acts_elsewhere_as_it_did(
    model: str, delta: str, tiny: Any, tmp_path: Path
) -> None:
    backend = tiny(model).wrap()
    settings = Settings(recipe="search", delta=delta, template=template_for(delta), dimension=20)
    problem = build_problem(backend, SPLIT, settings)
    assert problem.frame is not None
    z = 4 * np.random.default_rng(0).standard_normal(problem.frame.subspace.dimension)
    [seen] = backend.score(problem.request(problem.train.prompts, problem.delta(z)))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    member = Member("delta", problem.reader, head, frame=problem.frame, z=z)
    Artifact.of(backend, [member]).save(tmp_path)

    again = TunedModel.load(tmp_path, backend=tiny(model).wrap())

    texts = [example.text for example in SPLIT.train]
    expected = np.exp(head.log_proba(seen))
    np.testing.assert_allclose(again.predict_proba(texts), expected, rtol=0, atol=1e-5)
    without = TunedModel(Artifact.of(backend, [replace(member, z=None)]), backend)
    assert not np.allclose(without.predict_proba(texts), expected, atol=1e-2)


def test_stages_follow_one_another_and_the_earlier_ones_are_frozen(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny("llama").wrap()
    searched: list[DeltaBatch] = []
    score = backend.score

    def spied(request: ScoreRequest, sink: Any = None) -> Any:
        if request.purpose == "search":
            searched.append(request.delta)
        return score(request, sink)

    monkeypatch.setattr(backend, "score", spied)
    tuned = tune(
        backend,
        SPLIT,
        delta="lora,bitfit",
        template=TEMPLATE,
        out=tmp_path / "run",
        **{**SEARCH, "budget": "60 calls"},
    )

    def differ(batch: DeltaBatch, part: int) -> bool:
        """Whether the candidates differ in one of the two deltas."""
        own = batch.parts[part]
        return len({own.digest(row) for row in range(len(own))}) > 1

    moving = [(differ(batch, 0), differ(batch, 1)) for batch in searched]
    first = moving.count((True, False))
    assert moving == [(True, False)] * first + [(False, True)] * (len(moving) - first)
    assert 0.3 < first / len(moving) < 0.7
    still = searched[0].parts[1].tensors.values()
    assert not any(tensor.any() for tensor in still), "the second waits at the untuned model"
    frozen = {batch.parts[0].digest(0) for batch in searched[first:]}
    assert len(frozen) == 1
    again = TunedModel.load(tmp_path / "run", backend=tiny("llama").wrap())
    texts = [example.text for example in EXAMPLES]
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


def test_an_optimizer_is_told_of_its_own_stages_budget(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the calls each: what the first does not get is no reason to search on."""
    told = []
    made = loop.make_optimizer

    def noted(*given: Any, budget_candidates: int | None, **settings: Any) -> Any:
        told.append(budget_candidates)
        return made(*given, budget_candidates=budget_candidates, **settings)

    monkeypatch.setattr(loop, "make_optimizer", noted)
    for delta in ("bitfit", "bitfit,ia3"):
        given = {**SEARCH, "optimizer": "two-stage", "budget": "40 calls"}
        tune(tiny("llama").wrap(), SPLIT, delta=delta, template=TEMPLATE, **given)
    assert told == [40] * 2 + [20] * 4


def test_stages_need_a_budget_for_each(tiny: Any) -> None:
    given = {**SEARCH, "delta": "lora,bitfit", "template": TEMPLATE}
    with pytest.raises(BudgetError, match="too small"):
        tune(tiny("llama").wrap(), SPLIT, **{**given, "budget": "9 calls"})
    with pytest.raises(ConfigError, match="stages have a subspace each"):
        tune(tiny("llama").wrap(), SPLIT, subspace="fastfood", **given)


@pytest.mark.parametrize("optimizer", ["divide-and-conquer", "adaptive-allocation"])
@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_layers_are_told_apart_and_saved(
    recipe: str, optimizer: str, tiny: Any, tmp_path: Path
) -> None:
    given = {**SEARCH, "budget": "60 calls", "recipe": recipe, "optimizer": optimizer}
    if recipe == "auto":
        del given["population"]
    tuned = tune(
        tiny("llama").wrap(), SPLIT, delta="lora", template=TEMPLATE, out=tmp_path / "run", **given
    )

    if recipe == "search":
        assert tuned.result["delta"]["subspace"] == "blocks"
    texts = [example.text for example in EXAMPLES]
    again = TunedModel.load(tmp_path / "run", backend=tiny("llama").wrap())
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_whole_matrices_are_searched_along_directions_of_low_rank(
    recipe: str, tiny: Any, tmp_path: Path
) -> None:
    losses: list[float] = []
    given = {**SEARCH, "budget": "100 calls", "recipe": recipe, "optimizer": "eggroll"}
    if recipe == "auto":
        del given["population"]

    tuned = tune(
        tiny("llama").wrap(),
        SPLIT,
        delta="selective",
        template=TEMPLATE,
        out=tmp_path / "run",
        observer=lambda progress: losses.append(progress.best_loss),
        **given,
    )

    if recipe == "search":
        assert tuned.result["delta"]["subspace"] == "low-rank"
        assert losses[-1] < 0.9 * untuned_loss(tiny("llama").wrap(), "selective")
    texts = [example.text for example in EXAMPLES]
    again = TunedModel.load(tmp_path / "run", backend=tiny("llama").wrap())
    np.testing.assert_array_equal(again.predict_proba(texts), tuned.predict_proba(texts))


@pytest.mark.parametrize("recipe", ["search", "auto"])
def test_nothing_to_divide_is_said_before_anything_is_asked(recipe: str, tiny: Any) -> None:
    backend = tiny("llama").wrap()
    with pytest.raises(ConfigError, match="divide-and-conquer goes .* take the subspace 'blocks'"):
        tune(
            backend,
            SPLIT,
            recipe=recipe,
            delta="lora",
            template=TEMPLATE,
            subspace="sparse",
            optimizer="divide-and-conquer",
        )


@pytest.mark.parametrize("delta", ["lora", "bitfit"])
def test_a_run_is_exported_to_peft_or_says_why_not(delta: str, tiny: Any, tmp_path: Path) -> None:
    backend = tiny("llama").wrap()
    settings = Settings(recipe="search", delta=delta, template=TEMPLATE, dimension=20)
    problem = build_problem(backend, SPLIT, settings)
    [seen] = backend.score(problem.request(problem.train.prompts, None))
    head = make_head("plain").fit(seen, problem.train.labels, None)
    member = Member("delta", problem.reader, head, frame=problem.frame, z=np.ones(20))
    tuned = TunedModel(Artifact.of(backend, [member]), backend)

    if delta == "bitfit":
        with pytest.raises(ExportError, match="BEFT acts on .*norm is none; tune with"):
            export_peft(tuned, tmp_path)
        return
    export_peft(tuned, tmp_path)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert (tmp_path / "adapter_model.safetensors").stat().st_size > 1000
    with pytest.raises(ExportError, match="no delta was kept"):
        export_peft(TunedModel(Artifact.of(backend, [replace(member, z=None)]), backend), tmp_path)


def test_settings_reach_the_delta(tiny: Any) -> None:
    told = {"rank": 3, "lora.targets": "q_proj,v_proj"}
    tuned = tune(
        tiny("llama").wrap(), SPLIT, delta="lora", delta_settings=told, template=TEMPLATE, **SEARCH
    )

    # Two layers, q_proj of 32 to 32 and v_proj of 32 to 16 numbers.
    assert tuned.result["delta"]["size"] == 2 * 3 * (32 + 32) + 2 * 3 * (32 + 16)


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        ("prophetnet", {"delta": "prefix"}, UnsupportedError, "takes no prefix; it takes adapter"),
        ("llama", {"delta": "lora", "delta_settings": {"targets": "z_proj"}}, ConfigError,
         "no module of this model is named by 'z_proj'"),
        ("llama", {"delta": "lora", "template": None, "soft_init": "random"}, UnsupportedError,
         "lora has no soft prompt, so nothing can start from 'random'"),
        ("llama", {"delta": "lora", "soft_tokens": 40}, ConfigError,
         "soft_tokens is for soft-prompt and deep-prompt, not for lora"),
        ("llama", {"delta": "lora", "delta_settings": {"targets": ""}}, ConfigError,
         "delta.targets names no modules"),
        ("llama", {"delta": "lora", "delta_settings": {"targets": 4}}, ConfigError,
         "a pattern of modules' names, not 4"),
        ("llama", {"delta": "lora,bitfit", "optimizer": "eggroll"}, ConfigError,
         r"'eggroll' is made for the subspace 'low-rank', .* same time: lora\+bitfit"),
        ("llama", {"delta": "lora,selective", "dimension": 2100,
                   "delta_settings": {"selective.targets": "all-linear"}}, ConfigError,
         "2 stages of dimension 2100, 2100 are more than 4096 together; give at most 2048"),
        ("llama", {"delta": "lora", "delta_settings": {"rank": "many"}}, ConfigError,
         "delta.rank is a whole number, not 'many'"),
        ("llama", {"delta": "prefix", "delta_settings": {"tokens": 300}}, ConfigError,
         "300 tokens leaves no room"),
        ("llama", {"delta": "prefix", "delta_settings": {"tokens": -1}}, ConfigError,
         "at least 1 token"),
        ("llama", {"delta": "prefix", "delta_settings": {"tokens": 10**12}}, ConfigError,
         "1000000000000 tokens leaves no room"),
        ("llama", {"delta": "soft-prompt", "template": "{text}{soft} {label}",
                   "soft_tokens": 10**9},
         ConfigError, "1000000000 tokens leaves no room in the 256 tokens that tiny reads"),
        ("llama", {"delta": "deep-prompt", "template": "{soft:200}{text}{soft:56} {label}"},
         ConfigError, "256 tokens leaves no room in the 256 tokens that tiny reads"),
        ("llama", {"delta": "prefix", "delta_settings": {"layers": "0,0"}}, ConfigError,
         "named several times: 0"),
        ("llama", {"delta": "lora", "delta_settings": {"rank": 10**12}}, ConfigError,
         "rank of lora is at most 80 at these modules"),
        ("llama", {"delta": "lora", "delta_settings": {"targets": "random:²"}}, ConfigError,
         "draws no modules"),
        ("llama", {"delta": "sparse", "delta_settings": {"targets": r".*norm"}}, ConfigError,
         r"no linear layer of this model is named by '\.\*norm', only input_layernorm"),
        ("llama", {"delta": "prefix", "delta_settings": {"layers": "0,5"}}, ConfigError,
         "layers 0 to 1 of this model, not into 5"),
        ("llama", {"delta": "ia3", "dimension": 500}, ConfigError,
         "dimension = 500 is more than the .* numbers of the ia3"),
        ("llama", {"delta": "lora", "template": "{text}{soft} {label}"}, ConfigError,
         "which lora does not fill; leave {soft} out"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    model: str, settings: dict[str, Any], error: type[BlackBoxDeltaError], message: str, tiny: Any
) -> None:
    backend = tiny(model).wrap()
    backend.score = None  # type: ignore[method-assign]

    with pytest.raises(error, match=message):
        tune(backend, SPLIT, **{**SEARCH, "template": TEMPLATE, **settings})


@pytest.mark.parametrize("context", [24, 60, 256])
@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_auto_asks_what_fits_into_the_context(architecture: str, context: int, tiny: Any) -> None:
    """Labelled examples before the text, and words that list all labels, are soon too long."""
    backend = tiny(architecture).wrap(max_length=context)
    assert backend.capabilities.max_length == context
    given = {"budget": "8 calls", "without": "search"}
    result = tune(backend, replace(SPLIT, test=EXAMPLES[:2]), **given).result
    shown = [view["name"] for view in result["views"] if "demonstrations" in view["name"]]
    assert result["parts"][0]["part"] == "the default view"
    assert not shown or context == 256


def test_a_prefix_beside_several_slots_starts_from_the_first_one_s_words(tiny: Any) -> None:
    backend = tiny("llama").wrap()
    settings = Settings(
        recipe="search",
        delta="soft-prompt+prefix",
        template="{soft:2} {text}{soft:2} {label}",
        soft_init="text:great | text:terrible",
        dimension=20,
    )
    frame = build_problem(backend, SPLIT, settings).frame
    assert frame is not None
    assert isinstance(frame.delta, Composition)
    _, prefix = frame.delta.deltas
    assert isinstance(prefix, Prefix)
    assert set(prefix.token_ids) == set(backend.embedding_table.tokenize("great"))
