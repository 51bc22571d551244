"""What a tuned model says here, and what an exported one says by plain calls, to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from by_the_book import TEXTS, Reference
from kept import WORDS

from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Example

AFTER = "{text}. It was {label}"
FRONT = "{soft:3} " + AFTER
DECODERS = "llama gpt2 qwen3 mistral gemma3 opt gpt_neox".split()  # noqa: SIM905
ARCHITECTURES = "llama gpt2 qwen3 gemma3 opt gpt_neox bloom qwen2_moe bert t5 bart".split()  # noqa: SIM905


def said(model: TunedModel, *, untuned: bool = False) -> np.ndarray:
    """Log-probabilities (n, c) of the label words."""
    [member] = model.members
    prompts = member.reader.prompts([Example(text) for text in TEXTS])
    request = member.request(prompts, 0, "test")
    if untuned:
        request = type(request)(request.prompts, request.choices)
    return model.backend.score(request).label_logprobs[0]


def by_the_book(given: TunedModel, model: Any, tokenizer: Any) -> np.ndarray:
    """The same of another model, one plain call for each text and label word."""
    import torch

    [member] = given.members
    prompts = member.reader.prompts([Example(text) for text in TEXTS])
    reference = Reference(given.backend._loaded.kind, model, tokenizer)
    choices = member.reader.choices
    with torch.no_grad():
        rows = [[reference.score(prompt, choice, {}) for choice in choices] for prompt in prompts]
    return np.array(rows)


def check_the_same(given: TunedModel, theirs: np.ndarray) -> None:
    """The exported model says what the delta makes the open one say, which is something else."""
    expected = said(given)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)
    assert not np.allclose(expected, said(given, untuned=True), atol=1e-2)


def scored(
    tiny: Any, model: Any, words: str, opening: Sequence[int] = (), closing: Sequence[int] = ()
) -> np.ndarray:
    """Log-probabilities (n, c), one plain call of a model for each text and label word.

    Args:
        tiny: Whose tokenizer it is.
        model: What is called with token ids alone.
        words: What is read of a text; ``{}`` stands for it.
        opening: Tokens before it.
        closing: Tokens behind it that an encoder reads.
    """
    import torch

    def ids(text: str) -> list[int]:
        return list(tiny.tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = []
    with torch.no_grad():
        for text in TEXTS:
            before = [*opening, *ids(words.format(text))]
            row = []
            for answer in (ids(f" {word}") for word in WORDS.values()):
                if tiny.kind == "seq2seq":
                    start = model.config.decoder_start_token_id
                    read = {
                        "input_ids": torch.tensor([[*before, *closing]]),
                        "decoder_input_ids": torch.tensor([[start, *answer[:-1]]]),
                    }
                    logits = model(**read).logits[0]
                else:
                    whole = torch.tensor([before + answer])
                    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
                    logits = logits[0, -len(answer) - 1 : -1]
                logprobs = logits.float().log_softmax(dim=-1)
                row.append(sum(float(logprobs[at, token]) for at, token in enumerate(answer)))
            rows.append(row)
    return np.array(rows)
