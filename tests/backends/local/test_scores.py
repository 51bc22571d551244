"""Scores of the local backend against one plain forward pass per candidate, example and choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from by_the_book import CHOICES, TEXTS, Reference, Template, request_for

from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    Prompt,
    ScoreRequest,
    SoftSlot,
    Words,
)

CAUSAL = (
    "llama gpt2 qwen2 qwen3 mistral gemma2 gemma3 opt gpt_neox bloom qwen2_moe".split()  # noqa: SIM905
)
MASKED = ["bert", "roberta", "distilbert"]
SEQ2SEQ = ["t5", "bart", "switch", "nllb_moe"]

ANY_MODEL: dict[str, Template] = {
    "after": lambda text: [Words(text, True), SoftSlot("a"), Words(" It was"), AnswerSlot()],
    "in front": lambda text: [
        SoftSlot("a"),
        Words(f" {text}", True),
        Words(" It was"),
        AnswerSlot(),
    ],
    "in front, after words": lambda text: [
        Words("Review:"),
        SoftSlot("a"),
        Words(f" {text}", True),
        Words(" It was"),
        AnswerSlot(),
    ],
    "several": lambda text: [
        SoftSlot("a"),
        Words(f" {text}", True),
        SoftSlot("b"),
        Words(" It was"),
        SoftSlot("a"),
        AnswerSlot(),
    ],
    "only the slot before the answer": lambda text: [
        Words(text, True),
        SoftSlot("b"),
        AnswerSlot(),
    ],
    "none": lambda text: [Words("Review: "), Words(text, True), Words(" It was"), AnswerSlot()],
}
MASKED_ONLY: dict[str, Template] = {
    "words behind": lambda text: [
        Words(text, True),
        SoftSlot("a"),
        Words(" It was"),
        AnswerSlot(),
        Words(" in the end"),
        SoftSlot("b"),
        Words("."),
    ],
    "answer first": lambda text: [
        AnswerSlot(),
        Words(" it was:"),
        SoftSlot("a"),
        Words(f" {text}", True),
    ],
}
SEQ2SEQ_ONLY: dict[str, Template] = {
    "decoder words": lambda text: [
        Words(text, True),
        SoftSlot("a"),
        DecoderStart(),
        Words("It was"),
        AnswerSlot(),
    ],
    "decoder slot": lambda text: [
        Words(text, True),
        DecoderStart(),
        SoftSlot("a"),
        Words(" It was"),
        AnswerSlot(),
    ],
    "both": lambda text: [
        SoftSlot("b"),
        Words(f" {text}", True),
        DecoderStart(),
        SoftSlot("a"),
        AnswerSlot(),
    ],
}
CASES = [
    *((model, name, template) for model in CAUSAL for name, template in ANY_MODEL.items()),
    *((model, name, t) for model in MASKED for name, t in (ANY_MODEL | MASKED_ONLY).items()),
    *((model, name, t) for model in SEQ2SEQ for name, t in (ANY_MODEL | SEQ2SEQ_ONLY).items()),
]


def reference_scores(reference: Reference, request: ScoreRequest) -> np.ndarray:
    import torch

    tensors = {} if request.delta is None else request.delta.tensors
    with torch.no_grad():
        return np.array(
            [
                [
                    [
                        reference.score(
                            prompt, choice, {name: value[row] for name, value in tensors.items()}
                        )
                        for choice in request.choices
                    ]
                    for prompt in request.prompts
                ]
                for row in range(request.candidates)
            ]
        )


@pytest.mark.parametrize(
    ("model", "name", "template"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_scores_are_those_of_plain_forward_passes(
    model: str, name: str, template: Template, tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    has_slot = any(isinstance(part, SoftSlot) for part in template("x"))
    delta = soft_prompt(2, 32, a=2, b=3) if has_slot else None
    request = request_for(template, delta)

    scores = tiny_backend(model).score(request).label_logprobs

    expected = reference_scores(Reference(*vars(tiny(model)).values()), request)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
@pytest.mark.parametrize("candidates", [0, 1, 3])
def test_any_number_of_candidates(
    model: str, candidates: int, tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    """Zero stands for the untuned model: its soft slots are empty."""
    delta = soft_prompt(candidates, 32, a=2) if candidates else None
    request = request_for(ANY_MODEL["after"], delta)

    scores = tiny_backend(model).score(request).label_logprobs

    expected = reference_scores(Reference(*vars(tiny(model)).values()), request)
    assert scores.shape == (max(1, candidates), len(TEXTS), len(CHOICES))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("slotted", [(True, False, False), (False, True, True), (False,) * 3])
@pytest.mark.parametrize("model", ["llama", "gpt2", "bloom", "bert", "t5"])
def test_prompts_with_and_without_the_slot_go_together(
    model: str, slotted: tuple[bool, ...], tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    prompts = [
        Prompt((Words(text), *([SoftSlot("a")] if slot else []), AnswerSlot()))
        for text, slot in zip(TEXTS, slotted, strict=True)
    ]
    request = ScoreRequest(prompts, CHOICES, soft_prompt(2, 32, a=2))

    scores = tiny_backend(model).score(request).label_logprobs

    expected = reference_scores(Reference(*vars(tiny(model)).values()), request)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", [*CAUSAL, *MASKED, *SEQ2SEQ])
def test_soft_tokens_texts_and_choices_matter_to_these_models(
    model: str, tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    """Otherwise the comparisons in this file could not fail."""
    backend = tiny_backend(model)
    request = request_for(ANY_MODEL["after"], soft_prompt(3, 32, a=2))

    scores = backend.score(request).label_logprobs

    assert scores.std(axis=0).mean() > 0.05
    assert scores.std(axis=1).mean() > 0.05
    assert scores.std(axis=2).mean() > 0.05
    tokens = [tuple(backend.embedding_table.tokenize(choice)) for choice in CHOICES]
    assert [len(ids) > 1 for ids in tokens] == [False, False, True, True, True]
    assert len({ids[0] for ids in tokens[2:]}) == 1


@pytest.mark.parametrize(
    "model", ["llama", "gpt2", "opt", "bloom", "bert", "roberta", "t5", "bart"]
)
@pytest.mark.parametrize("choices", [CHOICES, CHOICES[2:]], ids=["with single tokens", "without"])
def test_top_tokens_are_those_of_the_full_distribution(
    model: str, choices: list[str], tiny: Any, tiny_backend: Any, soft_prompt: Any
) -> None:
    import torch

    # Under several masks the first one's distribution would be another: masked models only
    # promise the distribution where the shortest choice stands.
    choices = CHOICES if tiny(model).kind == "masked" else choices
    delta = soft_prompt(2, 32, a=2)
    request = request_for(ANY_MODEL["after"], delta, choices, top_k=7)

    scores = tiny_backend(model).score(request)

    reference = Reference(*vars(tiny(model)).values())
    for candidate in range(2):
        for row, prompt in enumerate(request.prompts):
            soft = {name: value[candidate] for name, value in delta.tensors.items()}
            with torch.no_grad():
                expected = torch.topk(reference.distribution(prompt, soft), 7)
            assert scores.top_ids[candidate, row].tolist() == expected.indices.tolist()
            np.testing.assert_allclose(
                scores.top_logprobs[candidate, row], expected.values, rtol=0, atol=1e-4
            )


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
def test_no_prompts_give_no_scores(model: str, tiny_backend: Any, soft_prompt: Any) -> None:
    scores = tiny_backend(model).score(ScoreRequest([], CHOICES, soft_prompt(2, 32, a=2), top_k=3))

    assert scores.label_logprobs.shape == (2, 0, len(CHOICES))
    assert scores.top_ids.shape == (2, 0, 3)


@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_the_whole_vocabulary_can_be_asked_for(model: str, tiny_backend: Any) -> None:
    backend = tiny_backend(model)
    size = backend.capabilities.max_top_k

    scores = backend.score(request_for(ANY_MODEL["none"], None, top_k=size))

    assert sorted(scores.top_ids[0, 0].tolist()) == list(range(size))
    np.testing.assert_allclose(np.exp(scores.top_logprobs).sum(axis=-1), 1, atol=1e-5)
