"""Singular vectors of a model's matrices: found once, and never those of other weights."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from by_the_book import batch, request_for
from changed_models import SLOT, expected
from exported import AFTER
from kept import kept

from blackbox_delta.backends.local import LocalBackend, terms


def wrapped(model: Any, tiny: Any) -> LocalBackend:
    return LocalBackend.from_objects(model, tiny.tokenizer, name="mine")


def changed_since(tiny: Any, tuned: Any) -> Any:
    """A model that was tuned, and has changed since; the same object."""
    model = copy.deepcopy(tiny.model)
    backend = wrapped(model, tiny)
    backend.score(request_for(SLOT, tuned))
    backend.close()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and "embed" not in name:
                value.mul_(-1.5)
    return model


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_model_that_changed_since_answers_as_a_copy_of_it(
    precision: torch.dtype, tiny: Any, tiny_backend: Any
) -> None:
    tuned = batch("tiny-lora", tiny_backend("llama"), 2)
    model = changed_since(tiny("llama"), tuned).to(precision)
    request = request_for(SLOT, tuned)
    copied = wrapped(copy.deepcopy(model), tiny("llama"))

    scores = wrapped(model, tiny("llama")).score(request).label_logprobs

    np.testing.assert_array_equal(scores, copied.score(request).label_logprobs)


def test_they_are_found_once_and_forgotten_when_the_backend_is_closed(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[weakref.ref[torch.Tensor]] = []
    find = terms._factors

    def noted(*asked: Any) -> Any:
        made = find(*asked)
        found.extend(weakref.ref(value) for value in made.values())
        return made

    monkeypatch.setattr(terms, "_factors", noted)
    backend = tiny("llama").wrap()
    tuned = batch("tiny-lora", backend, 2)
    request = request_for(SLOT, tuned)

    first = backend.score(request).label_logprobs
    count = len(found)
    again = backend.score(request).label_logprobs

    assert count == len(found) == len(tuned.tensors) * 2
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, expected(tiny("llama"), request), rtol=0, atol=1e-4)
    backend.close()
    gc.collect()
    assert not any(each() is not None for each in found)


def linear(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> torch.nn.Linear:
    """A layer whose matrix has so many singular values that are not zero."""
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(shape[1], shape[0], bias=False)
    product = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    layer.weight = torch.nn.Parameter(torch.from_numpy(product).to(dtype), requires_grad=False)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16), (1, 9), (9, 1)])
def test_they_are_those_of_another_library(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rank = min(4, *shape)
    layer = linear(shape, min(shape), dtype)
    u, sizes, v = np.linalg.svd(layer.weight.double().numpy(), full_matrices=False)
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(sizes))])

    found = terms.Factors(dtype).of(layer, rank)

    left, right = found["left"].double().numpy(), found["right"].double().numpy()
    close = 1e-5 if dtype == torch.float32 else 1e-2
    expected = (u * signs * sizes)[:, :rank].T
    np.testing.assert_allclose(left, expected, rtol=close, atol=close * sizes[0])
    np.testing.assert_allclose(right, (v * signs[:, None])[:rank].T, rtol=close, atol=close)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("rank", [0, 2])
def test_what_a_matrix_lacks_adds_nothing(shape: tuple[int, int], rank: int) -> None:
    """Also where there is nothing at all: no direction beyond a matrix's rank is blown up."""
    layer = linear(shape, rank, torch.float32)

    found = terms.Factors(torch.float32).of(layer, 5)

    left, right = found["left"].numpy(), found["right"].numpy()
    np.testing.assert_allclose(left.T @ right.T, layer.weight.numpy(), atol=1e-5)
    np.testing.assert_allclose(left[rank:], 0.0, atol=1e-5)
    assert (np.linalg.norm(right, axis=0) < 1 + 1e-6).all()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["lora", "tiny-lora", "adapter", "selective", "ia3", "sparse"])
def test_layers_of_another_precision_than_the_embeddings(
    kind: str, large: bool, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers keeps the last layer of T5's feed-forward blocks in fp32 beside fp16."""
    if large:
        monkeypatch.setattr("blackbox_delta.tensors.MOST_WHOLE", 0)
    mixed = copy.deepcopy(tiny("t5").model).half()
    for name, module in mixed.named_modules():
        if name.endswith(".wo"):
            module.float()
    backend, whole = wrapped(mixed, tiny("t5")), tiny("t5").wrap()
    given = kept(whole, kind, AFTER, targets="all-linear")
    request = request_for(SLOT, given.members[0].delta)

    scores = backend.score(request).label_logprobs

    np.testing.assert_allclose(scores, whole.score(request).label_logprobs, rtol=0, atol=0.1)
    untuned = whole.score(request_for(SLOT, None)).label_logprobs
    assert np.abs(scores - untuned).max() > 0.2
