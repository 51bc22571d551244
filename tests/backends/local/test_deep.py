"""Deep prompts, a population in one pass, against one plain pass with the states moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import transformers
from by_the_book import Reference, batch, request_for

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.deltas import DeepPrompt, SoftPrompt
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import AnswerSlot, DeltaBatch, ScoreRequest, SoftSlot, Words

CAUSAL = "llama gpt2 qwen3 mistral gemma3 opt gpt_neox bloom qwen2_moe".split()  # noqa: SIM905
MASKED = ["bert", "distilbert"]
#: Where the stack of layers is.
LAYERS = {
    "gpt2": "transformer.h",
    "opt": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "bloom": "transformer.h",
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
}
#: The slot behind the text, so that examples share it, and in front, so that candidates do.
PLACES = {
    "behind": lambda text: [Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot()],
    "in front": lambda text: [SoftSlot("a"), Words(text, True), Words(" It was"), AnswerSlot()],
    "twice": lambda text: [
        SoftSlot("b"), Words(text, True), SoftSlot("a"), Words(" so"), AnswerSlot(),
    ],
}  # fmt: skip


def deep(backend: Any, candidates: int, **slots: int) -> DeltaBatch:
    prompt = SoftPrompt.build(
        slots, backend.embedding_table, tokens=2, init=None, rng=np.random.default_rng(0)
    )
    delta = DeepPrompt.build(prompt, backend.geometry)
    rng = np.random.default_rng(1)
    return delta.unpack(rng.normal(0, 2.0, (candidates, delta.size)).astype(np.float32))


@contextmanager
def moved(model: Any, stack: str, by: dict[int, np.ndarray], where: list[int]) -> Iterator[None]:
    """Adds ``by[layer]`` (tokens, hidden) to the states at ``where``, of the only row."""
    import torch

    def hook(layer: int) -> Any:
        def add(_module: Any, inputs: Any, named: Any) -> Any:
            states = inputs[0] if inputs else named["hidden_states"]
            states[0, where] = states[0, where] + torch.from_numpy(by[layer])

        return add

    layers = model.get_submodule(stack)
    handles = [layers[n].register_forward_pre_hook(hook(n), with_kwargs=True) for n in by]
    yield
    for handle in handles:
        handle.remove()


def expected(tiny: Any, request: ScoreRequest, stack: str) -> np.ndarray:
    import torch

    delta = request.delta
    assert delta is not None
    tensors = delta.parts[0].tensors
    slots = {name: value for name, value in tensors.items() if "@" not in name}
    layers = sorted({int(name.partition("@")[2]) for name in tensors if "@" in name})
    reference = Reference(tiny.kind, tiny.model, tiny.tokenizer)
    scores = np.empty((request.candidates, len(request.prompts), len(request.choices)))
    empty = tiny.tokenizer("")["input_ids"]
    opening = len(empty[:-1]) if tiny.kind == "masked" else len(empty)
    with torch.no_grad():
        for row in range(request.candidates):
            own = {name: value[row] for name, value in slots.items()}
            for column, prompt in enumerate(request.prompts):
                where, order, at = [], [], opening
                for part in prompt.segments:
                    if isinstance(part, SoftSlot):
                        where += range(at, at + len(own[part.name]))
                        order.append(part.name)
                        at += len(own[part.name])
                    elif isinstance(part, Words):
                        at += len(reference.ids(part.text))
                by = {
                    layer: np.concatenate([tensors[f"{name}@{layer}"][row] for name in order])
                    for layer in layers
                }
                for place, choice in enumerate(request.choices):
                    with moved(tiny.model, stack, by, where):
                        scores[row, column, place] = reference.score(prompt, choice, own)
    return scores


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", [*CAUSAL, *MASKED])
def test_a_population_answers_as_states_that_are_moved_by_hand(
    model: str, place: str, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    slots = {"a": 2, "b": 3} if place == "twice" else {"a": 2}
    request = request_for(PLACES[place], deep(backend, 3, **slots))

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05  # otherwise the comparison could not fail
    by_hand = expected(tiny(model), request, LAYERS.get(model, "model.layers"))
    np.testing.assert_allclose(scores, by_hand, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["llama", "bloom", "bert"])
def test_without_offsets_it_is_the_soft_prompt(model: str, tiny_backend: Any) -> None:
    backend = tiny_backend(model)
    delta = deep(backend, 2, a=2)
    alone = DeltaBatch("soft-prompt", {"a": delta.tensors["a"]})
    still = {name: value * ("@" not in name) for name, value in delta.tensors.items()}

    scores = backend.score(request_for(PLACES["behind"], DeltaBatch("deep-prompt", still)))

    expected = backend.score(request_for(PLACES["behind"], alone)).label_logprobs
    np.testing.assert_allclose(scores.label_logprobs, expected, rtol=0, atol=1e-5)


def test_what_stands_before_the_slot_is_read_once_for_all_candidates(tiny_backend: Any) -> None:
    backend = tiny_backend("llama")
    delta = deep(backend, 3, a=2)
    request = request_for(PLACES["behind"], delta, [" great"])
    backend.score(request)
    again = backend.score(request).usage.computed_tokens
    soft = DeltaBatch("soft-prompt", {"a": delta.tensors["a"]})
    assert again == backend.score(replace(request, delta=soft)).usage.computed_tokens
    assert again < backend.score(request).usage.tokens / 2


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_it_acts_together_with_terms_inside(model: str, tiny: Any, tiny_backend: Any) -> None:
    backend = tiny_backend(model)
    first, second = deep(backend, 2, a=2), batch("bitfit", backend, 2)
    together = request_for(PLACES["behind"], replace(first, beside=(second,)))
    scores = backend.score(together).label_logprobs
    for row in range(2):
        alone = replace(together, delta=together.delta.select([row]))
        np.testing.assert_allclose(
            scores[row : row + 1], backend.score(alone).label_logprobs, rtol=0, atol=1e-4
        )
    assert not np.allclose(
        scores, backend.score(request_for(PLACES["behind"], first)).label_logprobs, atol=0.01
    )


def test_hooks_go_and_the_model_answers_as_before(tiny_backend: Any) -> None:
    backend = tiny_backend("llama")
    untuned = request_for(PLACES["behind"], None)
    before = backend.score(untuned).label_logprobs
    backend.score(request_for(PLACES["behind"], deep(backend, 2, a=2)))
    assert np.array_equal(backend.score(untuned).label_logprobs, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backend._model.modules())


def test_encoder_decoders_say_what_they_take(tiny_backend: Any) -> None:
    tensors = {"a": np.zeros((1, 2, 32), np.float32)}
    with pytest.raises(UnsupportedError, match="takes adapter, bitfit, .* not 'deep-prompt'"):
        tiny_backend("t5").score(request_for(PLACES["behind"], DeltaBatch("deep-prompt", tensors)))


def test_models_with_narrow_embeddings_take_none(tiny: Any) -> None:
    """ELECTRA's and OPT-350m's states are wider than what soft tokens are."""
    tokenizer = tiny("bert").tokenizer
    config = transformers.ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=16, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    model = transformers.ElectraForMaskedLM(config).eval()
    backend = LocalBackend.from_objects(model, tokenizer, name="narrow")
    assert "soft-prompt" in backend.capabilities.deltas
    assert "deep-prompt" not in backend.capabilities.deltas


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a@2", (1, 2, 32), "a layer from 1 to 1"),
        ("b@1", (1, 2, 32), "a slot of its own"),
        ("a@1", (1, 2, 31), r"takes \(candidates, 2, 32\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, shape: tuple[int, ...], message: str, tiny_backend: Any
) -> None:
    tensors = {"a": np.zeros((1, 2, 32), np.float32), name: np.zeros(shape, np.float32)}
    with pytest.raises(UnsupportedError, match=message):
        tiny_backend("llama").score(
            request_for(PLACES["behind"], DeltaBatch("deep-prompt", tensors))
        )
