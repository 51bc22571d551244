"""How much goes through the model at once, and what happens when memory runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.local.batching import (
    LENGTH_SLACK,
    Footprint,
    MemoryLimit,
    in_chunks,
    is_out_of_memory,
    packs_by_length,
    packs_of_equal_length,
    split_when_too_large,
)
from blackbox_delta.deltas import LoRA
from blackbox_delta.deltas.targets import select
from blackbox_delta.errors import OutOfMemoryError
from blackbox_delta.types import AnswerSlot, Prompt, ScoreRequest, SoftSlot, Words

TEXTS = ["fine", "a good film", "the plot is dull", "bad", "I would not go again", "so great"]
CHOICES = [" great", " terrible bad", " terrible dull film"]


def request_with(soft: Any, *, in_front: bool = False) -> ScoreRequest:
    def prompt(text: str) -> Prompt:
        parts = [Words(f" {text}", True), SoftSlot("a")]
        return Prompt((*(parts[::-1] if in_front else parts), Words(" It was"), AnswerSlot()))

    return ScoreRequest([prompt(text) for text in TEXTS], CHOICES, soft, top_k=3)


# ------------------------------------------------------------------------------ packs


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), max_size=40),
    st.none() | st.integers(1, 7),
    st.just(math.inf) | st.integers(0, 50),
)
def test_packs_hold_every_index_once_and_lengths_alike(
    lengths: list[tuple[int, int]], most: int | None, padding: float
) -> None:
    packs = packs_by_length(lengths, most, padding)

    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    for pack in packs:
        assert 0 < len(pack) <= (most or len(lengths))
        for column in zip(*(lengths[index] for index in pack), strict=True):
            assert max(column) <= LENGTH_SLACK * min(column) + 4
        computed = [lengths[index][-1] for index in pack]
        assert sum(max(computed) - own for own in computed) <= padding


def test_equal_lengths_make_full_packs() -> None:
    assert [len(pack) for pack in packs_by_length([(9,)] * 10, 4)] == [4, 4, 2]


def test_many_candidates_are_padded_less() -> None:
    """Each of them would compute the padding; another pass costs the same for all."""
    footprint, lengths = Footprint(1, 0, 0, 0), [(20,), (21,), (22,), (23,)]
    limit = MemoryLimit(footprint, 1000, None, pass_tokens=30)

    assert packs_by_length(lengths, padding=limit.padding(5)) == [[0, 1, 2, 3]]  # 6 tokens each
    assert packs_by_length(lengths, padding=limit.padding(10)) == [[0, 1, 2], [3]]
    assert packs_by_length(lengths, padding=limit.padding(31)) == [[0], [1], [2], [3]]
    on_a_gpu = MemoryLimit(footprint, 1000, None)
    assert packs_by_length(lengths, padding=on_a_gpu.padding(1000)) == [[0, 1, 2, 3]]


# ----------------------------------------------------------------------------- limits


def limit_of(rows: int) -> MemoryLimit:
    """A limit that as many one-token rows fit into."""
    return MemoryLimit(Footprint(1, 0, 0, 0), rows, None)


def test_rows_follow_bytes_and_tokens() -> None:
    footprint = Footprint(per_token=10, per_score=2, per_logit_row=100, per_kept_token=7)
    # 10·5 + 2·5·9 + 100·1 + 7·4 = 268 bytes a row
    assert MemoryLimit(footprint, 2680, None).rows(5, 9, 1, 4) == 10
    assert MemoryLimit(footprint, 2679, None).rows(5, 9, 1, 4) == 9
    assert MemoryLimit(footprint, 2680, 20).rows(5, 9, 1, 4) == 4
    assert MemoryLimit(footprint, 0, 0).rows(5, 9, 1, 4) == 1


def test_a_cpu_takes_more_at_a_time_with_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(threads: int) -> MemoryLimit:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return MemoryLimit.sensible(Footprint(1, 0, 0, 0), torch.device("cpu"))

    assert at(8).rows(10, 10, 0) == pytest.approx(8 * at(1).rows(10, 10, 0), rel=0.02)
    assert at(8).padding(4) == 8 * at(1).padding(4)


def test_footprint_counts_keys_and_values_of_grouped_heads(tiny: Callable[[str], Any]) -> None:
    footprint = Footprint.of(tiny("llama").model.config, 357, 4)

    # keys and values · 4 bytes · 2 layers · 2 kv heads · 8
    assert footprint.per_kept_token == 2 * 4 * 2 * 2 * 8


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        None,
    ],
)
def test_out_of_memory_is_recognised(error: Exception | None) -> None:
    if error is None:  # what torch itself raises on this machine's CPU
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 60, dtype=torch.uint8)
        error = caught.value
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_chunks_cover_everything_once_whatever_really_fits(
    total: int, believed: int, real: int
) -> None:
    limit, done = limit_of(believed), []

    def work(chunk: slice) -> None:
        if chunk.stop - chunk.start > real:
            raise torch.OutOfMemoryError("simulated")
        done.extend(range(total)[chunk])

    in_chunks(total, lambda: limit.rows(1, 0, 0), limit, work)

    assert done == list(range(total))
    assert limit.rows(1, 0, 0) <= max(real, believed)


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    limit = limit_of(8)

    def work(_chunk: slice) -> None:
        raise torch.OutOfMemoryError("simulated")

    with pytest.raises(OutOfMemoryError, match="single row.*shorter template"):
        in_chunks(8, lambda: limit.rows(1, 0, 0), limit, work)


def test_other_errors_pass_through() -> None:
    limit = limit_of(8)

    def work(_chunk: slice) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        in_chunks(8, lambda: limit.rows(1, 0, 0), limit, work)
    assert limit.rows(1, 0, 0) == 8


@given(st.integers(1, 40), st.integers(1, 40))
def test_packs_split_until_they_fit(size: int, real: int) -> None:
    done: list[int] = []

    def work(pack: list[int]) -> None:
        if len(pack) > real:
            raise OutOfMemoryError("simulated")
        done.extend(pack)

    limit = limit_of(100)
    split_when_too_large(list(range(size)), lambda: limit.rows(1, 0, 0), limit, work)

    assert done == list(range(size))
    assert real >= size or limit.rows(1, 0, 0) < size


# -------------------------------------------------------------------- whole requests


class Cramped:
    """Makes a model run out of memory on forward passes of more than ``rows`` rows."""

    def __init__(self, model: Any, rows: int) -> None:
        self.refused, self.largest, self._rows = 0, 0, rows
        # Where every architecture here begins and where nothing has been computed yet.
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(self._measure)

    def _measure(self, _module: Any, inputs: Any) -> None:
        rows = inputs[0].shape[0] if inputs[0].ndim == 3 else 0
        if rows > self._rows:
            self.refused += 1
            raise torch.OutOfMemoryError("simulated")
        self.largest = max(self.largest, rows)


MODELS = ["llama", "bloom", "bert", "t5"]


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("in_front", [False, True], ids=["after", "in front"])
@pytest.mark.parametrize("model", MODELS)
def test_running_out_of_memory_changes_nothing_but_the_batches(
    model: str,
    in_front: bool,
    rows: int,
    tiny: Any,
    tiny_backend: Any,
    soft_prompt: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = request_with(soft_prompt(4, 32, a=2), in_front=in_front)
    expected = tiny_backend(model).score(request)
    backend = tiny(model).wrap()
    caplog.clear()
    cramped = Cramped(backend._model, rows)

    with caplog.at_level(logging.WARNING, "blackbox_delta"):
        scores = backend.score(request)

    assert cramped.refused > 0
    assert cramped.largest <= rows
    np.testing.assert_allclose(scores.label_logprobs, expected.label_logprobs, atol=1e-4, rtol=0)
    np.testing.assert_allclose(scores.top_logprobs, expected.top_logprobs, atol=1e-4, rtol=0)
    assert np.array_equal(scores.top_ids, expected.top_ids)
    assert "out of memory: going on with smaller batches" in caplog.text


@pytest.mark.parametrize("model", MODELS)
def test_what_was_learnt_about_memory_is_remembered(
    model: str, tiny: Any, soft_prompt: Any
) -> None:
    backend = tiny(model).wrap()
    cramped = Cramped(backend._model, 2)
    request = request_with(soft_prompt(4, 32, a=2))
    refused = []
    for _ in range(5):
        backend.score(request)
        refused.append(cramped.refused)

    # Requests are parted into forms of different lengths; each may have to learn once.
    assert 0 < refused[0] <= refused[-2] == refused[-1]


@pytest.mark.parametrize("model", MODELS)
def test_one_candidate_on_many_examples_can_run_out_of_memory_too(
    model: str, tiny: Any, tiny_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no candidate to leave out: the examples are parted, and it is remembered."""
    request = request_with(None)
    backend = tiny(model).wrap()
    cramped = Cramped(backend._model, 2)

    with caplog.at_level(logging.WARNING, "blackbox_delta"):
        scores = backend.score(request).label_logprobs
    refused = [cramped.refused]
    for _ in range(4):
        backend.score(request)
        refused.append(cramped.refused)

    # Requests are parted into forms of different lengths; each may have to learn once.
    assert 0 < refused[0] <= refused[-2] == refused[-1]
    assert "out of memory: going on with smaller batches" in caplog.text
    np.testing.assert_allclose(
        scores, tiny_backend(model).score(request).label_logprobs, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("model", ["deep_llama", "deep_bloom", "deep_bert"])
def test_memory_may_run_out_where_the_lower_layers_are_passed(model: str, tiny: Any) -> None:
    """That takes a pass of the untuned model, of a pack's rows at once."""
    backend = tiny(model).wrap()
    modules = [m for m in select(backend.geometry, r".*\.4\..*") if m.linear]
    delta = LoRA(modules)
    numbers = np.random.default_rng(0).normal(0, 1, (3, delta.size)).astype(np.float32)
    request = request_with(None)
    request = replace(request, prompts=request.prompts[:1] * 6, delta=delta.unpack(numbers))
    expected = backend.score(request).label_logprobs
    backend._engine.release()
    cramped = Cramped(backend._model, 3)

    scores = backend.score(request).label_logprobs

    assert cramped.refused > 0
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_never_fits_is_an_error(model: str, tiny: Any, soft_prompt: Any) -> None:
    backend = tiny(model).wrap()
    Cramped(backend._model, 0)

    with pytest.raises(OutOfMemoryError, match="single row"):
        backend.score(request_with(soft_prompt(2, 32, a=2)))


def test_packs_of_equal_length_pad_nothing() -> None:
    lengths = [(5, 3), (3, 5), (5, 3), (4, 4), (5, 3)]

    packs = packs_of_equal_length(lengths, 2)

    assert sorted(index for pack in packs for index in pack) == list(range(5))
    assert all(len({lengths[index] for index in pack}) == 1 for pack in packs)
    assert max(map(len, packs)) == 2


class PerLayer:
    """A configuration whose layers differ, which refuses to be asked for one size."""

    hidden_size = 32
    intermediate_size: ClassVar = [48, 64]
    num_attention_heads = 4
    num_hidden_layers = 2
    per_layer_config = (SimpleNamespace(head_dim=8), SimpleNamespace(head_dim=16))

    def get_text_config(self) -> PerLayer:
        return self

    @property
    def head_dim(self) -> int:
        raise RuntimeError("ask each layer")


def test_sizes_that_layers_differ_in_are_taken_at_their_largest() -> None:
    footprint = Footprint.of(PerLayer(), 100, 4)

    assert footprint.per_token == 4 * (8 * 32 + 3 * 64)
    assert footprint.per_kept_token == 2 * 4 * 2 * 4 * 16
