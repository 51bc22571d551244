"""Prefixes of masked models, a population in one pass, against attention written out by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_the_book import Reference, batch, request_for
from kept import kept

from blackbox_delta.backends.local.batching import Footprint, MemoryLimit
from blackbox_delta.deltas import Prefix
from blackbox_delta.errors import ExportError, ModelError, UnsupportedError
from blackbox_delta.exports import export_peft
from blackbox_delta.types import AnswerSlot, DeltaBatch, ScoreRequest, SoftSlot, Words

#: Where the attention of a layer is, and its parts: queries, keys, values, what is behind them.
ATTENTION = {
    "bert": ("bert.encoder.layer.{}.attention.self", "query", "key", "value", None),
    "roberta": ("roberta.encoder.layer.{}.attention.self", "query", "key", "value", None),
    "distilbert": (
        "distilbert.transformer.layer.{}.attention", "q_lin", "k_lin", "v_lin", "out_lin",
    ),
}  # fmt: skip
LAYERS, HEADS, SIZE = 2, 4, 8
WORDS = [7, 8, 9]
CHOICES = [" great", " terrible dull"]
SLOT = lambda text: [Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot()]  # noqa: E731


def prefixes(backend: Any, candidates: int, layers: list[int] | None = None) -> DeltaBatch:
    delta = Prefix(backend.geometry, WORDS, layers)
    rng = np.random.default_rng(1)
    return delta.unpack(rng.normal(0, 1.0, (candidates, delta.size)).astype(np.float32))


# ------------------------------------------------------------------- by the book


def _heads(flat: Any) -> Any:
    """(m, heads·size) as (heads, m, size)."""
    return flat.view(len(flat), HEADS, SIZE).transpose(0, 1)


def own_words(model: str, tiny: Any) -> list[tuple[Any, Any]]:
    """What the key and value layers put out for the words by themselves, head by head."""
    import torch

    path, _, *names, _ = ATTENTION[model]
    seen: list[Any] = []
    handles = [
        tiny.model.get_submodule(f"{path.format(layer)}.{name}").register_forward_hook(
            lambda _module, _inputs, output: seen.append(_heads(output[0]))
        )
        for layer in range(LAYERS)
        for name in names
    ]
    tiny.model(input_ids=torch.tensor([WORDS]))
    for handle in handles:
        handle.remove()
    return list(zip(seen[::2], seen[1::2], strict=True))


@contextmanager
def by_hand(model: str, holder: Any, fronts: list[tuple[Any, Any]]) -> Iterator[None]:
    """The attention of one row, written out, over ``fronts`` and the row."""
    import torch

    path, *names, behind = ATTENTION[model]

    def forward(module: Any, front: tuple[Any, Any]) -> Any:
        def attend(states: Any, *_others: Any, **_named: Any) -> Any:
            queries, keys, values = (_heads(getattr(module, name)(states)[0]) for name in names)
            keys, values = torch.cat([front[0], keys], 1), torch.cat([front[1], values], 1)
            weights = (queries @ keys.transpose(1, 2) / SIZE**0.5).softmax(dim=-1)
            output = (weights @ values).transpose(0, 1).reshape(states.shape)
            return (getattr(module, behind)(output) if behind else output), weights

        return attend

    modules = [holder.get_submodule(path.format(layer)) for layer in range(LAYERS)]
    for module, front in zip(modules, fronts, strict=True):
        module.forward = forward(module, front)
    yield
    for module in modules:
        del module.forward


def expected(model: str, tiny: Any, request: ScoreRequest) -> np.ndarray:
    import torch
    from changed_models import changed

    delta = request.delta
    assert delta is not None
    tensors = next(part.tensors for part in delta.parts if part.kind == "prefix")
    scores = np.empty((request.candidates, len(request.prompts), len(request.choices)))
    with torch.no_grad():
        words = own_words(model, tiny)
        for row in range(request.candidates):
            offsets = {name: torch.from_numpy(value[row]) for name, value in tensors.items()}
            moved = [
                (
                    keys + offsets.get(f"{layer}.keys", 0),
                    values + offsets.get(f"{layer}.values", 0),
                )
                for layer, (keys, values) in enumerate(words)
            ]
            holder = changed(tiny, delta, row)
            reference = Reference(tiny.kind, holder, tiny.tokenizer)
            with by_hand(model, holder, moved):
                for column, prompt in enumerate(request.prompts):
                    for place, choice in enumerate(request.choices):
                        scores[row, column, place] = reference.score(prompt, choice, {})
    return scores


# ---------------------------------------------------------------------- the tests


@pytest.mark.parametrize("layers", [None, [1]], ids=["every layer", "the second"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside LoRA"])
@pytest.mark.parametrize("model", ATTENTION)
def test_a_population_answers_as_attention_by_hand(
    model: str, beside: bool, layers: list[int] | None, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    delta = prefixes(backend, 3, layers)
    if beside:
        delta = replace(delta, beside=(batch("lora", backend, 3),))
    request = request_for(SLOT, delta, CHOICES)

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05  # otherwise the comparison could not fail
    by_book = expected(model, tiny(model), request)
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ATTENTION)
def test_at_zero_it_is_the_words_own_keys_and_values(
    model: str, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny_backend(model)
    delta = Prefix(backend.geometry, WORDS)
    request = request_for(SLOT, delta.unpack(np.zeros((2, delta.size), np.float32)), CHOICES)

    scores = backend.score(request).label_logprobs

    untuned = backend.score(request_for(SLOT, None, CHOICES)).label_logprobs
    assert np.abs(scores - untuned).max() > 0.05
    by_book = expected(model, tiny(model), request)
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_text_in_front_of_itself_changes_nothing(
    model: str, tiny: Any, tiny_backend: Any
) -> None:
    """Every key stands there twice: the weights of attention are halves, their sums the same."""
    backend, tokenizer = tiny_backend(model), tiny(model).tokenizer
    request = request_for(lambda text: [Words(text), AnswerSlot()], None, [" great"])
    prompt = replace(request, prompts=request.prompts[1:2])
    text = "".join(part.text for part in prompt.prompts[0].segments if isinstance(part, Words))
    *opening, closing = tokenizer(text)["input_ids"]
    delta = Prefix(backend.geometry, [*opening, tokenizer.mask_token_id, closing])
    nothing = delta.unpack(np.zeros((1, delta.size), np.float32))

    scores = backend.score(replace(request, delta=nothing)).label_logprobs[:, 1:2]

    untuned = backend.score(prompt).label_logprobs
    np.testing.assert_allclose(scores, untuned, rtol=0, atol=1e-4)
    other = backend.score(replace(request, delta=prefixes(backend, 1))).label_logprobs[:, 1:2]
    assert np.abs(other - untuned).max() > 0.05


def test_it_acts_beside_a_soft_prompt(tiny_backend: Any, soft_prompt: Any) -> None:
    backend = tiny_backend("bert")
    together = replace(prefixes(backend, 2), beside=(soft_prompt(2, 32, a=2),))
    scores = backend.score(request_for(SLOT, together)).label_logprobs
    for row in range(2):
        alone = backend.score(request_for(SLOT, together.select([row]))).label_logprobs
        np.testing.assert_allclose(scores[row : row + 1], alone, rtol=0, atol=1e-4)
    without = backend.score(request_for(SLOT, prefixes(backend, 2))).label_logprobs
    assert not np.allclose(scores, without, atol=0.01)


@pytest.mark.parametrize("assignment", [None, (2, 0, 2)], ids=["each under all", "assigned"])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_passes_of_a_few_rows_answer_the_same(
    rows: int, assignment: tuple[int, ...] | None, tiny: Any, tiny_backend: Any
) -> None:
    backend = tiny("bert").wrap()
    request = request_for(SLOT, prefixes(backend, 3), top_k=2)
    if assignment:
        request = replace(request, assignment=assignment)
    backend._engine.limit = MemoryLimit(Footprint(0, 0, 1, 0), rows, None)
    sizes: list[int] = []
    backend._model.bert.register_forward_pre_hook(
        lambda _module, _inputs, named: sizes.append(len(named["inputs_embeds"])), with_kwargs=True
    )

    scores = backend.score(request)

    assert max(sizes) <= rows
    whole = tiny_backend("bert").score(request)
    np.testing.assert_allclose(scores.label_logprobs, whole.label_logprobs, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(scores.top_ids, whole.top_ids)


def test_memory_counts_what_stands_in_front(tiny: Any) -> None:
    backend = tiny("bert").wrap()
    request = request_for(SLOT, prefixes(backend, 2))
    seen: list[tuple[int, ...]] = []

    class Noting(MemoryLimit):
        def rows(self, tokens: int, visible: int, logits: int, kept: int = 0) -> int:
            seen.append((visible - tokens, kept))
            return 100

    backend._engine.limit = Noting(Footprint(1, 1, 1, 1), 1, None)
    backend.score(request)
    assert set(seen) == {(3, 3)}


def test_the_words_are_read_once(tiny: Any) -> None:
    backend = tiny("bert").wrap()
    request = request_for(SLOT, prefixes(backend, 2), [" great"])
    first = backend.score(request).usage.computed_tokens
    assert first - backend.score(request).usage.computed_tokens == len(WORDS)


@pytest.mark.parametrize("model", ATTENTION)
def test_the_model_is_left_as_it_was(model: str, tiny: Any) -> None:
    """Bit for bit: weights, attention, hooks and what it answers next."""
    backend = tiny(model).wrap()
    untuned = request_for(SLOT, None)
    before = backend.score(untuned).label_logprobs
    attention = backend._model.config._attn_implementation
    weights = {name: value.clone() for name, value in backend._model.state_dict().items()}
    assert attention == tiny(model).model.config._attn_implementation

    backend.score(request_for(SLOT, prefixes(backend, 2)))

    assert np.array_equal(backend.score(untuned).label_logprobs, before)
    assert backend._model.config._attn_implementation == attention
    assert all(value.equal(weights[n]) for n, value in backend._model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backend._model.modules())


def test_its_own_attention_is_back_even_when_a_forward_pass_fails(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny("bert").wrap()
    request = request_for(SLOT, prefixes(backend, 2))
    attention = backend._model.config._attn_implementation

    with monkeypatch.context() as broken:
        broken.setattr(backend._model.bert.encoder.layer[1], "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.score(request)

    assert backend._model.config._attn_implementation == attention
    fresh = tiny("bert").wrap().score(request).label_logprobs
    assert np.array_equal(backend.score(request).label_logprobs, fresh)


# ------------------------------------------------------------------------- refusals


def check_refused(backend: Any) -> None:
    tensors = {"0.keys": np.zeros((1, HEADS, 2, SIZE), np.float32)}
    with pytest.raises(UnsupportedError, match="takes adapter, bitfit, .* not 'prefix'"):
        backend.score(request_for(SLOT, DeltaBatch("prefix", tensors, (1, 2))))
    assert backend.geometry.layers == 0


def test_attention_of_its_own_takes_none(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "blackbox_delta"):
        backend = tiny("mpnet").wrap()

    (record,) = caplog.records
    assert "tiny takes no prefixes" in record.getMessage()
    assert "its attention is not transformers' exchangeable one" in record.getMessage()
    check_refused(backend)


def test_a_model_that_does_not_see_all_that_stands_in_front_takes_none(
    tiny: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an attention would make it that puts something of its own before the words."""
    from blackbox_delta.backends.local import fronts

    honest = fronts._joined
    monkeypatch.setattr(fronts, "_joined", lambda front, own: honest(1.5 * front, own))
    with caplog.at_level(logging.INFO, "blackbox_delta"):
        backend = tiny("bert").wrap()

    assert "log-probabilities differ by" in caplog.text
    check_refused(backend)


def test_a_model_that_attends_less_often_than_before_is_no_score(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny("bert").wrap()
    request = request_for(SLOT, prefixes(backend, 2))
    backend.score(request)
    last = backend._model.bert.encoder.layer[1]
    monkeypatch.setattr(last, "forward", lambda states, *_, **__: states)
    with pytest.raises(ModelError, match="attended 1 times, not 2"):
        backend.score(request)


def test_it_is_no_adapter_of_pefts(tiny: Any, tmp_path: Any) -> None:
    """PEFT hands a prefix to a model's cache, which these have none of."""
    tuned = kept(tiny("bert").wrap(), "prefix", "{text}. It was {label}", tokens=3)
    with pytest.raises(ExportError, match="the prefix cannot be exported: tiny reads no keys"):
        export_peft(tuned, tmp_path)
