"""Deltas whose tensors are made module by module, against the same ones in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_the_book import TARGETS, TEXTS, request_for
from kept import kept

from blackbox_delta.api import tune
from blackbox_delta.backends.local import LocalBackend, steps
from blackbox_delta.compare.memory import PeakMemory
from blackbox_delta.deltas import MODULE_DELTAS, Composition, Selective
from blackbox_delta.deltas.targets import select
from blackbox_delta.problem.frame import Frame
from blackbox_delta.subspaces import make_subspace
from blackbox_delta.tasks import FewShotSplit
from blackbox_delta.tensors import DeferredTensors
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import AnswerSlot, DeltaBatch, Example, ScoreRequest, SoftSlot, Words

SLOT = lambda text: [Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot()]  # noqa: E731
AFTER = "{text}. It was {label}"
NAMES = ("label_logprobs", "top_logprobs")


def frame(backend: Any, kinds: str, subspace: str = "sparse") -> Frame:
    geometry = backend.geometry
    parts = [
        MODULE_DELTAS[kind].build(select(geometry, TARGETS[kind]), geometry)
        for kind in kinds.split("+")
    ]
    delta: Any = parts[0] if len(parts) == 1 else Composition(parts)
    return Frame(delta, make_subspace(subspace, 20, delta.size, 3, 1.0, delta.groups))


def both(frame: Frame, monkeypatch: pytest.MonkeyPatch) -> tuple[DeltaBatch, DeltaBatch]:
    """Three candidates in memory, and the same made when they are needed."""
    z = np.random.default_rng(0).standard_normal((3, 20))
    whole = frame.candidates(z)
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 0)
    deferred = frame.candidates(z)
    assert not any(isinstance(part.tensors, DeferredTensors) for part in whole.parts)
    assert all(isinstance(part.tensors, DeferredTensors) for part in deferred.parts)
    return whole, deferred


KINDS = [*MODULE_DELTAS, "selective+ia3", "ia3+lora+bitfit"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", "llama gpt2 gemma3 bloom bert t5 bart".split())  # noqa: SIM905
def test_answers_are_those_of_tensors_in_memory(
    model: str, kind: str, tiny_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny_backend(model)
    whole, deferred = both(frame(backend, kind), monkeypatch)

    backend.score(request_for(SLOT, whole, top_k=3))  # what an encoder makes of texts is kept
    expected = backend.score(request_for(SLOT, whole, top_k=3))
    scores = backend.score(request_for(SLOT, deferred, top_k=3))

    for name in NAMES:
        given = getattr(scores, name)
        np.testing.assert_allclose(given, getattr(expected, name), rtol=0, atol=2e-5)
    assert expected.label_logprobs.std(axis=0).mean() > 0.05
    assert scores.usage.computed_tokens == expected.usage.computed_tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_prompts_answer_under_candidates_of_their_own(
    model: str, kind: str, tiny_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several rows of one pass are under one candidate, whose tensors are made once."""
    backend = tiny_backend(model)
    whole, deferred = both(frame(backend, kind), monkeypatch)
    own = (2, 0, 2)

    expected = backend.score(replace(request_for(SLOT, whole), assignment=own))
    scores = backend.score(replace(request_for(SLOT, deferred), assignment=own))

    given = scores.label_logprobs
    np.testing.assert_allclose(given, expected.label_logprobs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("subspace", ["gaussian", "fastfood", "blocks"])
def test_in_every_subspace_and_some_candidates_at_a_time(
    subspace: str, tiny_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny_backend("llama")
    whole, deferred = both(frame(backend, "selective", subspace), monkeypatch)
    expected = backend.score(request_for(SLOT, whole)).label_logprobs
    for most in (1, 2 * 32 * 48, 2**22):
        monkeypatch.setattr(steps, "_MOST_MADE", most)
        given = backend.score(request_for(SLOT, deferred)).label_logprobs
        np.testing.assert_allclose(given, expected, rtol=0, atol=2e-5)


def test_each_candidates_tensors_are_made_once_for_a_pass_and_module(
    tiny_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny_backend("llama")
    _, deferred = both(frame(backend, "selective"), monkeypatch)
    made: list[tuple[str, int]] = []
    get = DeferredTensors.__getitem__

    def spied(self: DeferredTensors, name: str) -> Any:
        value = get(self, name)
        made.append((name, len(value)))
        return value

    monkeypatch.setattr(DeferredTensors, "__getitem__", spied)
    prompts = request_for(SLOT, deferred)
    alike = replace(prompts, prompts=[prompts.prompts[0]] * 6, assignment=(1, 0, 1, 1, 0, 1))
    backend.score(alike)
    assert sorted(made) == sorted((name, 2) for name in deferred.tensors)


def test_a_soft_prompt_stands_beside_a_large_delta(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny("llama").wrap()
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 100)
    given = kept(backend, "soft-prompt+selective", "{soft:3} " + AFTER)
    delta = given.members[0].delta
    assert delta is not None
    first, second = delta.parts
    assert isinstance(second.tensors, DeferredTensors)
    assert not isinstance(first.tensors, DeferredTensors)
    large = given.predict_proba(TEXTS)
    monkeypatch.undo()
    again = TunedModel(given.artifact, backend)
    np.testing.assert_allclose(large, again.predict_proba(TEXTS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("delta", ["selective", "lora+bitfit"])
def test_what_was_saved_is_loaded_either_way(
    delta: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum is that of the tensors themselves, however they are kept."""
    backend = tiny("gpt2").wrap()
    given = kept(backend, delta, AFTER)
    expected = given.predict_proba(TEXTS)
    given.artifact.save(tmp_path / "in memory")
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 0)

    later = TunedModel.load(tmp_path / "in memory", backend=backend)
    later.artifact.save(tmp_path / "later")

    np.testing.assert_allclose(later.predict_proba(TEXTS), expected, rtol=0, atol=2e-5)
    monkeypatch.undo()
    again = TunedModel.load(tmp_path / "later", backend=backend)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), expected)


@pytest.mark.parametrize("delta", ["selective", "selective+ia3", "selective,lora"])
def test_a_search_from_data_to_a_saved_run(
    delta: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tuple(
        Example(f"the {what} was {word}", None, label)
        for label, word in (("good", "great"), ("bad", "terrible"))
        for what in ("film", "plot", "acting")
    )
    backend, searched = tiny("llama").wrap(), []
    score = backend.score

    def spied(request: ScoreRequest, sink: Any = None) -> Any:
        if request.purpose == "search":
            searched.extend(request.delta.parts)
        return score(request, sink)

    monkeypatch.setattr(backend, "score", spied)
    monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 0)
    tuned = tune(
        backend,
        FewShotSplit(examples, examples, (), 0, 3),
        recipe="search",
        delta=delta,
        template=AFTER,
        population=4,
        budget="40 calls",
        head="calibrated",
        scale=1.0,
        dimension=20,
        out=tmp_path / "run",
    )
    assert searched
    assert all(isinstance(part.tensors, DeferredTensors) for part in searched)
    again = TunedModel.load(tmp_path / "run", backend=tiny("llama").wrap())
    np.testing.assert_array_equal(again.predict_proba(TEXTS), tuned.predict_proba(TEXTS))


@pytest.mark.model
def test_a_hundred_million_numbers_take_little_memory(smollm2: LocalBackend) -> None:
    """All linear layers of a real model: 425 MB for each of four candidates, were they whole."""
    pytest.importorskip("psutil")
    geometry = smollm2.geometry
    delta = Selective(select(geometry, "all-linear"))
    large = Frame(delta, make_subspace("sparse", 1000, delta.size, 0, 0.3))
    z = np.random.default_rng(0).standard_normal((4, 1000))
    prompts = request_for(SLOT, None, [" great"]).prompts[:1]
    smollm2.score(ScoreRequest(prompts * 4, [" great"]))

    with PeakMemory() as before:
        pass
    with PeakMemory() as peak:
        scores = smollm2.score(ScoreRequest(prompts, [" great"], large.candidates(z)))

    assert delta.size > 1e8
    assert len(set(scores.label_logprobs[:, 0, 0].tolist())) == 4
    assert peak.bytes - before.bytes < 200e6
