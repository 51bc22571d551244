from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from posing import AUTO, HIDDEN, SMALL, SPLIT, TASK, UNSEARCHED, build

from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.errors import (
    BlackBoxDeltaError,
    ConfigError,
    DataError,
    TemplateError,
    UnsupportedError,
    VerbalizerError,
)
from blackbox_delta.problem import ask, build_problem
from blackbox_delta.settings import Settings
from blackbox_delta.types import Example, SoftSlot


def test_the_parts_hold_every_example_with_its_label() -> None:
    problem = build()
    assert (len(problem.train), len(problem.dev), len(problem.test)) == (10, 10, 7)
    labels = problem.reader.verbalizer.labels
    assert labels == ("account", "billing", "delivery", "sales", "technical")
    for part, examples in zip(
        (problem.train, problem.dev, problem.test),
        (SPLIT.train, SPLIT.dev, SPLIT.test),
        strict=True,
    ):
        assert [labels[index] for index in part.labels] == [each.label for each in examples]
        for prompt, example in zip(part.prompts, examples, strict=True):
            assert example.text in "".join(getattr(s, "text", "") for s in prompt.segments)


def test_shapes_along_the_data_path() -> None:
    problem = build()
    assert problem.frame is not None
    z = np.random.default_rng(0).standard_normal((4, 20))  # (λ, d)
    batch = problem.frame.candidates(z)
    assert {name: value.shape for name, value in batch.tensors.items()} == {
        "soft.0": (4, 3, HIDDEN)
    }
    scores = ask(FakeBackend(), problem.request(problem.train.prompts, batch, 6))
    assert scores.label_logprobs.shape == (4, 10, 5)  # (λ, n, c)
    assert scores.top_ids.shape == scores.top_logprobs.shape == (4, 10, 6)  # (λ, n, k)


def test_one_candidate_is_the_same_alone_and_in_a_population() -> None:
    problem = build()
    assert problem.frame is not None
    z = np.random.default_rng(1).standard_normal((3, 20))
    alone = problem.delta(z[1])
    assert alone is not None
    assert alone.digest(0) == problem.frame.candidates(z).digest(1)
    assert problem.delta(None) is None


@pytest.mark.parametrize(
    ("template", "soft_tokens", "lengths"),
    [
        ("{text} {soft} It is {label}", 3, [3]),
        ("{text} {soft} It is {label}", None, [10]),
        ("{soft:2} {text} {soft} It is {label}", 5, [2, 5]),
    ],
)
def test_slots_have_their_own_length_or_that_of_the_settings(
    template: str, soft_tokens: int | None, lengths: list[int]
) -> None:
    frame = build(template=template, soft_tokens=soft_tokens).frame
    assert frame is not None
    assert list(frame.delta.slots.values()) == lengths


def test_all_starts_share_their_search_dimension() -> None:
    problem = build(recipe="auto", dimension=None, soft_tokens=None)
    frames = [start.frame for start in (problem, *problem.rivals)]
    assert all(frame is not None for frame in frames)
    sizes = {frame.delta.size for frame in frames if frame is not None}
    assert len(sizes) > 1
    dimensions = {frame.subspace.dimension for frame in frames if frame is not None}
    assert dimensions == {min(sizes)}


def test_blocks_follow_the_slots() -> None:
    template = "{text} {soft:2} It was {soft:4} {label}"
    frame = build(template=template, subspace="blocks", dimension=12, soft_tokens=None).frame
    assert frame is not None
    assert frame.described()["subspace"] == "blocks"
    assert frame.delta.groups == (frame.delta.size // 3, 2 * frame.delta.size // 3)
    assert len(frame.subspace.parts) == 2
    assert sum(frame.subspace.parts) == 12


@pytest.mark.parametrize("optimizer", ["divide-and-conquer", "adaptive-allocation"])
def test_optimizers_of_parts_take_blocks_unless_told_otherwise(optimizer: str) -> None:
    given = {"template": "{text} {soft:2} It was {soft:4} {label}", "soft_tokens": None}
    for subspace, parts in ((None, 2), ("gaussian", 1)):
        frame = build(**given, optimizer=optimizer, subspace=subspace).frame
        assert frame is not None
        assert len(frame.subspace.parts) == parts


def test_eggroll_takes_directions_of_low_rank_unless_told_otherwise() -> None:
    template = "{text} {soft:2} It was {soft:4} {label}"
    for subspace, kind in ((None, "low-rank"), ("gaussian", "random")):
        frame = build(
            template=template, soft_tokens=None, optimizer="eggroll", subspace=subspace
        ).frame
        assert frame is not None
        assert frame.subspace.kind == kind
    frame = build(template=template, soft_tokens=None, subspace="low-rank").frame
    assert frame is not None
    assert frame.subspace.config()["shapes"] == [[2, HIDDEN], [4, HIDDEN]]


@pytest.mark.parametrize("accepts", [{"soft-prompt"}, set()])
def test_without_a_slot_only_the_output_side_is_left(accepts: set[str]) -> None:
    problem = build(FakeBackend(accepts=accepts), template="{text} It is {label}", **UNSEARCHED)
    assert problem.frame is None
    assert problem.start is None
    assert problem.delta(np.zeros(20)) is None
    assert not any(isinstance(s, SoftSlot) for p in problem.train.prompts for s in p.segments)


ABOUT_A_SEARCH: list[dict[str, Any]] = [
    {"soft_tokens": 4},
    {"dimension": 20},
    {"subspace": "gaussian"},
    {"subspace_from": ["run"]},
    {"scale": 0.1},
    {"optimizer": "cma"},
    {"population": 8},
]


@pytest.mark.parametrize("told", ABOUT_A_SEARCH, ids=lambda told: next(iter(told)))
def test_what_is_said_of_a_search_that_is_none_is_refused(told: dict[str, Any]) -> None:
    [name] = told
    own = UNSEARCHED | told | {"template": "{text} It is {label}"}
    with pytest.raises(ConfigError, match=rf"{name} is about .* no \{{soft\}} slot; .* {name} out"):
        build(**own)
    with pytest.raises(ConfigError, match=f"{name} is about .*takes no soft prompts; leave {name}"):
        build(FakeBackend(accepts=frozenset()), **UNSEARCHED | told)


@pytest.mark.parametrize(
    ("settings", "error", "what"),
    [
        ({"template": "{text} {soft}"}, TemplateError, "label"),
        ({"template": "{text_pair} {text} {soft} {label}"}, TemplateError, "single texts"),
        ({"label_words": {"account": "login"}}, VerbalizerError, "billing"),
        ({"label_words": dict.fromkeys(TASK.labels, "same")}, VerbalizerError, "same"),
        ({"dimension": 49}, ConfigError, "49 is more than the 48"),
        ({"soft_init": "words"}, ConfigError, "cannot start from 'words'"),
        ({"soft_init": "text: "}, ConfigError, "no tokens"),
        ({"subspace": "cauchy"}, ConfigError, "no subspace 'cauchy'.*gaussian, .*sparse"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_asked(
    settings: dict[str, Any], error: type[BlackBoxDeltaError], what: str
) -> None:
    backend = FakeBackend()
    with pytest.raises(error, match=what):
        build(backend, **settings)
    assert backend.calls == 0


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"template": "{text} {soft} It is {label}"}, "use a template without {soft}, or none"),
        ({"soft_init": "random"}, "nothing can start from 'random'; leave soft_init out"),
        ({"soft_init": "zero"}, "nothing can start from 'zero'"),
    ],
)
def test_a_text_only_backend_takes_no_soft_prompt(given: dict[str, Any], what: str) -> None:
    backend = FakeBackend(accepts=frozenset())
    with pytest.raises(UnsupportedError, match=f"takes no soft prompts.*{what}"):
        build(backend, **given)
    assert backend.calls == 0


def test_a_request_carries_what_it_is_for() -> None:
    problem = build()
    request = problem.request(problem.dev.prompts, None, 3, "development")
    assert (request.top_k, request.purpose) == (3, "development")
    assert request.choices == problem.reader.choices


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dev": ()}, "lacks one"),
        ({"train": ()}, "lacks one"),
        ({"train": (Example("a", label="x"), Example("b", label="x"))}, "two classes"),
        ({"dev": (Example("a", label="unheard of"),)}, "unheard of"),
        ({"test": (Example("a", "b", SPLIT.train[0].label),)}, "test example 0 is a pair"),
        ({"train": (*SPLIT.train, Example("a", "b", "x"))}, "train example 10 is a pair"),
    ],
)
def test_a_split_that_cannot_be_learnt_from_is_refused(change: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        build_problem(FakeBackend(), replace(SPLIT, **change), Settings.of(SMALL))


def test_auto_can_do_without_development_examples() -> None:
    problem = build_problem(FakeBackend(), replace(SPLIT, dev=()), Settings.of(AUTO))
    assert (len(problem.train), len(problem.dev)) == (10, 0)
    with pytest.raises(DataError, match="lacks one"):
        build_problem(FakeBackend(), replace(SPLIT, train=()), Settings.of(AUTO))
