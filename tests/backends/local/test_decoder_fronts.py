"""Prefixes in front of decoders, a population in one pass, against transformers' own cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_the_book import TEXTS, Reference, batch, request_for
from changed_models import changed, encoder_rows

from blackbox_delta.deltas import Prefix
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    DeltaBatch,
    ScoreRequest,
    SoftSlot,
    Words,
)

#: A decoder's attention to itself, and its layers of keys and values.
PROJECTIONS = {
    "t5": ("decoder.block.{}.layer.0.SelfAttention", "k", "v"),
    "bart": ("model.decoder.layers.{}.self_attn", "k_proj", "v_proj"),
}
LAYERS, HEADS, SIZE = 2, 4, 8
WORDS = [7, 8, 9]
CHOICES = [" great", " terrible dull"]
#: Slots in the encoder and in the decoder, which the candidates fill or leave empty.
SLOTS = lambda text: [  # noqa: E731
    Words(text, True), SoftSlot("a"), DecoderStart(), Words("It was"), SoftSlot("b"), AnswerSlot()
]  # fmt: skip


def prefixes(backend: Any, candidates: int, layers: list[int] | None = None) -> DeltaBatch:
    delta = Prefix(backend.geometry, WORDS, layers)
    rng = np.random.default_rng(1)
    return delta.unpack(rng.normal(0, 1.0, (candidates, delta.size)).astype(np.float32))


# ------------------------------------------------------------------- by the book


class Behind(Reference):
    """Plain forward passes behind keys and values (heads, L, size), one pair for each layer."""

    def __init__(self, model: Any, tokenizer: Any, front: Sequence[tuple[Any, Any]]) -> None:
        super().__init__("seq2seq", model, tokenizer)
        self._front = front

    def _logprobs(self, **inputs: Any) -> Any:
        from transformers import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for layer, (keys, values) in enumerate(self._front):
            cache.self_attention_cache.update(keys[None], values[None], layer)
        return super()._logprobs(**inputs, past_key_values=cache)


def own_words(model: str, tiny: Any) -> list[tuple[Any, Any]]:
    """What the key and value layers put out where encoder and decoder read the words."""
    import torch

    path, *names = PROJECTIONS[model]
    seen: list[Any] = []
    handles = [
        tiny.model.get_submodule(f"{path.format(layer)}.{name}").register_forward_hook(
            lambda _module, _inputs, output: seen.append(
                output[0].view(len(WORDS), HEADS, SIZE).transpose(0, 1)
            )
        )
        for layer in range(LAYERS)
        for name in names
    ]
    tiny.model(input_ids=torch.tensor([WORDS]), decoder_input_ids=torch.tensor([WORDS]))
    for handle in handles:
        handle.remove()
    return list(zip(seen[::2], seen[1::2], strict=True))


def expected(model: str, tiny: Any, request: ScoreRequest) -> np.ndarray:
    import torch

    delta = request.delta
    assert delta is not None
    parts = {part.kind: part.tensors for part in delta.parts}
    scores = np.empty((request.candidates, len(request.prompts), len(request.choices)))
    with torch.no_grad():
        words = own_words(model, tiny)
        for row in range(request.candidates):
            offsets = {name: torch.from_numpy(each[row]) for name, each in parts["prefix"].items()}
            front = [
                (
                    keys + offsets.get(f"{layer}.keys", 0),
                    values + offsets.get(f"{layer}.values", 0),
                )
                for layer, (keys, values) in enumerate(words)
            ]
            soft = {name: value[row] for name, value in parts.get("soft-prompt", {}).items()}
            reference = Behind(changed(tiny, delta, row), tiny.tokenizer, front)
            for column, prompt in enumerate(request.prompts):
                for place, choice in enumerate(request.choices):
                    scores[row, column, place] = reference.score(prompt, choice, soft)
    return scores


# ---------------------------------------------------------------------- the tests


@pytest.mark.parametrize("layers", [None, [1]], ids=["every layer", "the second"])
@pytest.mark.parametrize("model", PROJECTIONS)
def test_a_population_answers_as_through_transformers_cache(
    model: str, layers: list[int] | None, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    request = request_for(SLOTS, prefixes(backend, 3, layers), CHOICES)

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05  # otherwise the comparison could not fail
    by_book = expected(model, tiny(model), request)
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=1e-4)
    for row in range(3):
        alone = backend.score(replace(request, delta=request.delta.select([row])))
        np.testing.assert_allclose(alone.label_logprobs[0], scores[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kinds", [["lora"], ["soft-prompt"], ["soft-prompt", "lora"]])
@pytest.mark.parametrize("model", PROJECTIONS)
def test_it_acts_beside_others(
    model: str, kinds: list[str], tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    backend = tiny_backend(model)
    made = {"lora": batch("lora", backend, 2), "soft-prompt": soft_prompt(2, 32, a=2, b=1)}
    delta = replace(prefixes(backend, 2), beside=tuple(made[kind] for kind in kinds))
    request = request_for(SLOTS, delta, CHOICES)

    scores = backend.score(request).label_logprobs

    alone = backend.score(request_for(SLOTS, prefixes(backend, 2), CHOICES)).label_logprobs
    assert np.abs(scores - alone).max() > 0.05
    by_book = expected(model, tiny(model), request)
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", PROJECTIONS)
def test_at_zero_it_is_the_words_own_keys_and_values(
    model: str, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    delta = Prefix(backend.geometry, WORDS)
    request = request_for(SLOTS, delta.unpack(np.zeros((2, delta.size), np.float32)), CHOICES)

    scores = backend.score(request).label_logprobs

    untuned = backend.score(request_for(SLOTS, None, CHOICES)).label_logprobs
    assert np.abs(scores - untuned).max() > 0.05
    by_book = expected(model, tiny(model), request)
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=1e-4)


def test_the_encoder_runs_once_for_all_candidates_and_requests(tiny: Any) -> None:
    backend = tiny("t5").wrap()
    request = request_for(SLOTS, prefixes(backend, 3), [" great"])
    first = backend.score(request).usage.computed_tokens
    read = encoder_rows(backend)

    again = backend.score(request).usage.computed_tokens

    encoded = sum(len(tiny("t5").tokenizer(text)["input_ids"]) for text in TEXTS)
    # Both sides read the words themselves.
    assert first - again == encoded + 2 * len(WORDS)
    assert read == []


@pytest.mark.parametrize("model", PROJECTIONS)
def test_the_model_is_left_as_it_was(model: str, tiny: Any) -> None:
    """Bit for bit: weights, hooks and what it answers next."""
    backend = tiny(model).wrap()
    untuned = request_for(SLOTS, None, CHOICES)
    before = backend.score(untuned).label_logprobs
    weights = {name: value.clone() for name, value in backend._model.state_dict().items()}

    tuned = backend.score(request_for(SLOTS, prefixes(backend, 2), CHOICES)).label_logprobs

    assert not np.allclose(tuned, before, atol=0.01)
    assert np.array_equal(backend.score(untuned).label_logprobs, before)
    assert all(value.equal(weights[n]) for n, value in backend._model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backend._model.modules())


# ------------------------------------------------------------------------- refusals


def check_refused(backend: Any) -> None:
    tensors = {"0.keys": np.zeros((1, HEADS, 2, SIZE), np.float32)}
    with pytest.raises(UnsupportedError, match="takes adapter, bitfit, .* not 'prefix'"):
        backend.score(request_for(SLOTS, DeltaBatch("prefix", tensors, (1, 2))))
    assert backend.geometry.layers == 0


def test_a_decoder_that_reads_one_token_from_a_cache_takes_none(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "blackbox_delta"):
        backend = tiny("prophetnet").wrap()

    (record,) = caplog.records
    assert "tiny takes no prefixes" in record.getMessage()
    assert "only supported for `decoder_input_ids` of length 1" in record.getMessage()
    check_refused(backend)


def test_a_model_without_a_cache_takes_none(
    tiny: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import T5ForConditionalGeneration

    whole = T5ForConditionalGeneration.forward
    monkeypatch.setattr(
        T5ForConditionalGeneration,
        "forward",
        lambda self, past_key_values=None, use_cache=None, **given: whole(
            self, **given, use_cache=False
        ),
    )
    with caplog.at_level(logging.INFO, "blackbox_delta"):
        backend = tiny("t5").wrap()

    assert "its decoder keeps no keys and values in a cache" in caplog.text
    check_refused(backend)


def test_a_model_that_reads_its_cache_otherwise_takes_none(
    tiny: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blackbox_delta.backends.local import decoder_fronts

    honest = decoder_fronts.repeated
    monkeypatch.setattr(decoder_fronts, "repeated", lambda front, rows: 1.5 * honest(front, rows))
    with caplog.at_level(logging.INFO, "blackbox_delta"):
        backend = tiny("bart").wrap()

    assert "log-probabilities differ by" in caplog.text
    check_refused(backend)
