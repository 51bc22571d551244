"""Layers below all that candidates differ in: passed once, and the answers are the same."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from by_the_book import CHOICES, request_for
from changed_models import SLOT, expected, prefix_batch, prefixed_scores

from blackbox_delta.backends.local import LocalBackend, lower_layers
from blackbox_delta.backends.prompt_encoder import EncodedPrompt
from blackbox_delta.deltas import LoRA
from blackbox_delta.deltas.targets import select
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, ScoreRequest, Segment, Words

DEEP = ["deep_llama", "deep_bloom", "deep_bert"]
SHORT = [" great", " good"]
#: Linear layers of the fourth and fifth of five layers.
UPPER = r".*\.[34]\..*"


def upper(backend: Any, pattern: str = UPPER, candidates: int = 3, seed: int = 0) -> DeltaBatch:
    modules = [each for each in select(backend.geometry, pattern) if each.linear]
    delta = LoRA(modules)
    rng = np.random.default_rng(seed)
    return delta.unpack(rng.normal(0, 1.0, (candidates, delta.size)).astype(np.float32))


@contextmanager
def counting(backend: Any) -> Iterator[list[int]]:
    """Receives how many rows each layer's attention computes, all passes together."""
    layers = lower_layers.layers_of(backend._model)
    rows = [0] * len(layers)

    def count(number: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            rows[number] += len(output[0] if isinstance(output, tuple) else output)

        return hook

    parts = [next(iter(dict(layer.named_children()).values())) for layer in layers]
    handles = [part.register_forward_hook(count(n)) for n, part in enumerate(parts)]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("model", DEEP)
def test_candidates_pass_only_the_layers_that_they_differ_in(model: str, tiny: Any) -> None:
    backend = tiny(model).wrap()
    first, second = (request_for(SLOT, upper(backend, seed=seed), SHORT) for seed in (0, 1))

    backend._engine.lower_layers.proof = lambda _count: True  # takes passes of its own
    with counting(backend) as rows:
        scores = backend.score(first).label_logprobs
    with counting(backend) as again:
        backend.score(second)

    once = 4 if model == "deep_llama" else 3  # three texts, and the <s> that all begin with
    assert rows == [once] * 3 + [4 * once] * 2  # as the model is, and under three candidates
    assert again == [0] * 3 + [3 * once] * 2
    assert scores.std(axis=0).mean() > 0.05
    np.testing.assert_allclose(scores, expected(tiny(model), first), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", DEEP)
def test_answers_are_the_same_where_nothing_is_left_out(model: str, tiny: Any) -> None:
    """With label words of several tokens, one candidate at a time, and a request repeated."""
    backend, whole = tiny(model).wrap(), tiny(model).wrap()
    whole._engine.lower_layers.proof = lambda _count: False
    request = request_for(SLOT, upper(backend), CHOICES, top_k=5)
    assert request.delta is not None

    together = [backend.score(request) for _ in range(2)]
    every = whole.score(request)

    for scores in together:
        for name in ("label_logprobs", "top_logprobs"):
            ours, theirs = getattr(scores, name), getattr(every, name)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    for row in range(3):
        one = backend.score(replace(request, delta=request.delta.select([row])))
        np.testing.assert_allclose(
            one.label_logprobs[0], every.label_logprobs[row], rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("model", DEEP)
def test_a_beginning_that_texts_have_in_common(model: str, tiny: Any) -> None:
    """Also other texts behind it, and the same texts behind another beginning."""

    def asked(opening: str, texts: Sequence[str]) -> ScoreRequest:
        def prompt(text: str) -> Prompt:
            parts: list[Segment] = [Words(opening), Words(text, True), Words(" It was")]
            return Prompt((*parts, AnswerSlot()))

        return ScoreRequest([prompt(text) for text in texts], SHORT, upper(backend))

    backend = tiny(model).wrap()
    for opening, texts in (
        ("the plot is long: ", ["fine", "so dull"]),
        ("the plot is long: ", ["again", "so dull"]),
        ("the film was good: ", ["fine", "so dull"]),
    ):
        request = asked(opening, texts)
        scores = backend.score(request).label_logprobs
        np.testing.assert_allclose(scores, expected(tiny(model), request), rtol=0, atol=1e-4)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside LoRA"])
def test_prefixes_in_upper_layers(beside: bool, tiny: Any) -> None:
    backend = tiny("deep_llama").wrap()
    delta = prefix_batch(backend, 2, [3])
    if beside:
        delta = replace(delta, beside=(upper(backend, r".*\.4\..*", 2),))
    request = request_for(SLOT, delta)
    backend._engine.lower_layers.proof = lambda _count: True

    with counting(backend) as rows:
        backend.score(request)
        scores = backend.score(request).label_logprobs

    assert rows[2] == 1 + 4  # the prefix's words; <s> and three texts
    assert rows[3] == 5 + 2 * 2 * 4
    np.testing.assert_allclose(
        scores, prefixed_scores(tiny("deep_llama"), request), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("modules", "layers", "below"),
    [
        (["model.layers.3.mlp.up_proj", "model.layers.4.mlp.up_proj"], [], 3),
        (["model.layers.3.mlp.up_proj"], [2, 4], 2),
        (["model.layers.3.mlp.up_proj", "model.norm"], [], 0),
        (["model.layers.3"], [], 3),
        ([], [4], 4),
        ([], [], 0),
    ],
)
def test_the_layers_below_a_delta(
    modules: list[str], layers: list[int], below: int, tiny: Any
) -> None:
    assert lower_layers.untouched(tiny("deep_llama").model, modules, layers) == below


@pytest.mark.parametrize("model", DEEP)
def test_a_model_on_which_answers_would_change_passes_every_layer(
    model: str, tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one whose layers hand on more than their output."""
    honest = lower_layers._mapped

    def more(output: Any, change: Any) -> Any:
        return honest(output, lambda states: change(states) * 1.5)

    monkeypatch.setattr(lower_layers, "_mapped", more)
    backend = tiny(model).wrap()
    request = request_for(SLOT, upper(backend), SHORT)

    with caplog.at_level(logging.INFO, "blackbox_delta"):
        scores = backend.score(request).label_logprobs
    with counting(backend) as rows:
        assert np.array_equal(backend.score(request).label_logprobs, scores)

    assert caplog.text.count("passes all its layers for every candidate (log-probabilities") == 1
    assert len(set(rows)) == 1
    np.testing.assert_allclose(scores, expected(tiny(model), request), rtol=0, atol=1e-4)


@pytest.mark.parametrize("output", [{"states": 1}, [torch.ones(1)]], ids=["dict", "list"])
def test_outputs_of_unknown_form_are_refused(output: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"puts out a {type(output).__name__}"):
        lower_layers._mapped(output, torch.clone)


def test_a_forward_of_its_own_is_there_again_afterwards(tiny: Any) -> None:
    layers = lower_layers.layers_of(tiny("deep_llama").model)[:2]
    states = torch.arange(6.0).view(1, 2, 3)
    passed = lower_layers.Passed(layers, (states, None), lower_layers.PrefixCache(torch.zeros(0)))
    own = lambda *_inputs: states  # noqa: E731
    layers[1].__dict__["forward"] = own

    try:
        with passed.instead(2):
            output, nothing = layers[0](states)
        assert output.equal(torch.cat([states, states]))
        assert nothing is None
        assert "forward" not in layers[0].__dict__
        assert layers[1].__dict__["forward"] is own
    finally:
        del layers[1].__dict__["forward"]


def test_layers_that_are_called_several_times_are_left_alone(tiny: Any) -> None:
    model = tiny("deep_llama").model
    lower = lower_layers.LowerLayers(model, lower_layers.Kept(1 << 20))

    with pytest.raises(NotImplementedError, match="called 0 times"):
        lower.passed("rows", 2, lambda: None)


def test_an_interrupted_proof_is_made_again(tiny: Any) -> None:
    def interrupted(_count: int) -> bool:
        raise KeyboardInterrupt

    lower = lower_layers.LowerLayers(tiny("deep_llama").model, lower_layers.Kept(1 << 20))
    lower.proof = interrupted
    with pytest.raises(KeyboardInterrupt):
        lower._is_sound(2)
    lower.proof = lambda _count: False
    assert not lower._is_sound(2)


def test_each_number_of_layers_is_tried_by_itself(tiny: Any) -> None:
    """In a model whose fourth layer also reads what the first puts out."""
    model = copy.deepcopy(tiny("deep_llama").model)
    first, _, _, fourth, _ = model.model.layers
    seen: list[torch.Tensor] = []

    def note(_module: Any, _inputs: Any, output: Any) -> None:
        seen[:] = [output]

    first.register_forward_hook(note)
    fourth.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + seen[0], *inputs[1:]))
    backend = LocalBackend.from_objects(model, tiny("deep_llama").tokenizer, name="crossing")

    for pattern, computed in ((r".*\.[234]\..*", True), (r".*\.[1234]\..*", False)):
        request = request_for(SLOT, upper(backend, pattern), SHORT)
        scores = backend.score(request).label_logprobs
        with counting(backend) as rows:
            backend.score(request)
        assert bool(rows[0]) == computed
        for row in range(3):
            assert request.delta is not None
            one = backend.score(replace(request, delta=request.delta.select([row])))
            np.testing.assert_allclose(one.label_logprobs[0], scores[row], rtol=0, atol=2e-5)


def test_a_beginning_that_had_to_be_dropped_is_made_again(tiny: Any) -> None:
    """Its own pass is none of those whose lower layers are being noted."""
    backend = tiny("deep_llama").wrap()
    opening = Words("the plot is long and the acting is so bad that ")
    prompts = [
        Prompt((opening, Words(text, True), Words(" It was"), AnswerSlot()))
        for text in ("fine", "so dull and far too long to sit through it again")
    ]
    request = ScoreRequest(prompts, SHORT, prefix_batch(backend, 2, [4]))
    expected = backend.score(request).label_logprobs
    kept = backend._engine.passes._kept

    for limit in range(1, kept.nbytes, kept.nbytes // 8):
        kept.clear()
        kept._limit = limit
        for _ in range(2):
            scores = backend.score(request).label_logprobs
            np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5)


def test_padding_is_not_taken_for_a_token(tiny: Any) -> None:
    """Token 0 fills shorter rows up; in many vocabularies it is a word too."""
    backend = tiny("deep_llama").wrap()
    backend._engine.lower_layers.proof = lambda _count: True
    candidates = backend._candidates(upper(backend))
    longer = EncodedPrompt((), ((9, 20, 21, 22, 23, 24),), ())
    filled, word = ([EncodedPrompt((), (own,), ()), longer] for own in ((5, 6, 8), (0, 5, 6, 8)))

    def answers(prompts: list[EncodedPrompt]) -> np.ndarray:
        with torch.inference_mode():
            return np.array(backend._engine.score(prompts, [(30,)], candidates, 0).label_logprobs)

    alone = answers(word)
    backend._engine.release()
    answers(filled)
    np.testing.assert_array_equal(answers(word), alone)
