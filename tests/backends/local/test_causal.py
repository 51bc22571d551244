"""What is computed once, what is kept, and that neither shows in the results."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blackbox_delta.backends.local.batching import Footprint, MemoryLimit
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.view import AnswerTree
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    Prompt,
    ScoreRequest,
    Segment,
    SoftSlot,
    Words,
)

TEXTS = ["fine", "the plot is long and the acting was so dull", "a film, I would go again", "bad"]
#: Their tree has two nodes: " terrible" and " terrible dull".
CHOICES = [" great", " terrible bad", " terrible dull", " terrible dull film"]
NODES = 2


def after(text: str) -> tuple[Segment, ...]:
    return (Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot())


def in_front(text: str) -> tuple[Segment, ...]:
    return (Words("Review:"), SoftSlot("a"), Words(f" {text}", True), Words(" was"), AnswerSlot())


def without_slot(text: str) -> tuple[Segment, ...]:
    return (Words("Review:"), Words(f" {text}", True), Words(" It was"), AnswerSlot())


def decoder_slot(text: str) -> tuple[Segment, ...]:
    return (Words(text, True), DecoderStart(), SoftSlot("a"), Words(" It was"), AnswerSlot())


def request_for(template: Any, soft: Any, choices: Any = CHOICES) -> ScoreRequest:
    return ScoreRequest([Prompt(template(text)) for text in TEXTS], choices, soft)


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


# -------------------------------------------------------------------- computed tokens


def test_the_text_before_the_slot_is_computed_once_a_run(tiny: Any, soft_prompt: Any) -> None:
    backend, tokenizer = tiny("llama").wrap(), tiny("llama").tokenizer
    texts = sum(1 + count(tokenizer, text) for text in TEXTS)  # with <s>
    behind = 3 + count(tokenizer, " It was") + NODES

    usages = [
        backend.score(request_for(after, soft_prompt(5, 32, seed=seed, a=3))).usage
        for seed in range(3)
    ]

    per_call = 5 * len(TEXTS) * behind
    assert [usage.computed_tokens for usage in usages] == [texts + per_call, per_call, per_call]
    # An API would count every prompt in full, for every candidate, without the label words.
    billed = 5 * (texts + len(TEXTS) * (behind - NODES))
    assert [usage.tokens for usage in usages] == [billed] * 3


def test_a_slot_in_front_is_computed_once_a_candidate(tiny: Any, soft_prompt: Any) -> None:
    backend, tokenizer = tiny("llama").wrap(), tiny("llama").tokenizer
    lead = 1 + count(tokenizer, "Review:") + 3
    behind = [count(tokenizer, f" {text} was") + NODES for text in TEXTS]

    for seed in range(2):
        usage = backend.score(request_for(in_front, soft_prompt(5, 32, seed=seed, a=3))).usage
        assert usage.computed_tokens == 5 * (lead + sum(behind))


def test_words_that_all_prompts_begin_with_are_computed_once(tiny: Any) -> None:
    backend, tokenizer = tiny("llama").wrap(), tiny("llama").tokenizer
    lead = 1 + count(tokenizer, "Review:")
    behind = [count(tokenizer, f" {text} It was") + NODES for text in TEXTS]

    usage = backend.score(request_for(without_slot, None)).usage

    assert usage.computed_tokens == lead + sum(behind)


def test_the_encoder_is_run_once_where_the_slot_is_in_the_decoder(
    tiny: Any, soft_prompt: Any
) -> None:
    backend, tokenizer = tiny("bart").wrap(), tiny("bart").tokenizer
    choices = [" great", " good"]
    encoder = sum(2 + count(tokenizer, text) for text in TEXTS)
    decoder = 1 + 3 + count(tokenizer, " It was")

    found = [
        backend.score(
            request_for(decoder_slot, soft_prompt(5, 32, seed=seed, a=3), choices)
        ).usage.computed_tokens
        for seed in range(2)
    ]

    assert found == [encoder + 5 * len(TEXTS) * decoder, 5 * len(TEXTS) * decoder]


# -------------------------------------------------------------------------- chunking


@pytest.mark.parametrize("template", [after, in_front, without_slot])
@pytest.mark.parametrize("model", ["llama", "mistral", "gemma2", "gpt2"])
def test_results_do_not_depend_on_the_chunks(
    model: str, template: Any, tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    soft = None if template is without_slot else soft_prompt(5, 32, a=2)
    request = request_for(template, soft)
    expected = tiny_backend(model).score(request).label_logprobs

    for tokens in (1, 40, 100):
        backend = tiny(model).wrap()
        backend._engine.passes.limit = MemoryLimit(Footprint(1, 1, 1, 1), 1 << 40, tokens)
        scores = backend.score(request).label_logprobs
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)


def test_results_do_not_depend_on_what_is_kept(
    tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    """Neither when nothing can be kept nor when it comes from an earlier call."""
    request = request_for(after, soft_prompt(3, 32, a=2))
    expected = tiny_backend("llama").score(request).label_logprobs
    backend = tiny("llama").wrap()
    backend._engine.passes._kept = Kept(0)

    first, second = (backend.score(request) for _ in range(2))

    assert first.usage.computed_tokens == second.usage.computed_tokens
    assert len(backend._engine.passes._kept) == 0
    for scores in (first, second, tiny_backend("llama").score(request)):
        np.testing.assert_allclose(scores.label_logprobs, expected, rtol=1e-6, atol=1e-5)


def test_equal_texts_score_equally(tiny_backend: Any, soft_prompt: Any) -> None:
    prompts = [Prompt(after(text)) for text in ("fine", "a film, so bad", "fine")]

    scores = tiny_backend("llama").score(ScoreRequest(prompts, CHOICES, soft_prompt(3, 32, a=2)))

    np.testing.assert_allclose(
        scores.label_logprobs[:, 0], scores.label_logprobs[:, 2], rtol=1e-6, atol=1e-5
    )


# ---------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("model", "template"), [("llama", after), ("llama", in_front), ("bart", decoder_slot)]
)
def test_memory_does_not_grow_with_the_number_of_calls(
    model: str, template: Any, tiny: Any, soft_prompt: Any
) -> None:
    backend = tiny(model).wrap()

    def alive() -> tuple[int, int]:
        gc.collect()
        # type(), for isinstance() would wake up what some libraries do at first touch.
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        return len(tensors), sum(tensor.numel() for tensor in tensors)

    held = []
    for call in range(50):
        backend.score(request_for(template, soft_prompt(3, 32, seed=call, a=2)))
        if call in {1, 49}:
            held.append((alive(), len(backend._encoded)))

    assert held[0] == held[1]


# ------------------------------------------------------------------- the answer tree


@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_every_choice_is_a_path_through_the_answer_tree(choices: list[tuple[int, ...]]) -> None:
    tree = AnswerTree.of(choices)

    assert len(tree.tokens) == len({ids[:end] for ids in choices for end in range(1, len(ids))})
    for choice, ids in enumerate(choices):
        read = [(position, token) for position, token, owner in tree.entries if owner == choice]
        assert [token for _, token in read] == list(ids)
        assert read[0][0] == 0
        for depth, (position, _) in enumerate(read[1:], start=1):
            node = position - 1
            # The node sees the choice's tokens so far, in order, and nothing else.
            assert tree.tokens[tree.sees[node]].tolist() == list(ids[:depth])
            assert tree.depth[tree.sees[node]].tolist() == list(range(1, depth + 1))
