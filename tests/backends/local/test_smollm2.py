"""A real model against plain transformers calls on token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox_delta.backends.local import loading
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, ScoreRequest, SoftSlot, Words

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend

pytestmark = pytest.mark.model

TEXTS = ["a wonderful, moving film", "the plot is dull, and I would not sit through it again"]
CHOICES = [" great", " terrible", " an utter disappointment"]
HINT = " This is what a critic says about a film:"


@pytest.fixture(scope="module")
def plain(smollm2: LocalBackend) -> Any:
    """The same weights as transformers loads them by itself, with its tokenizer."""
    import transformers

    folder = loading.model_folder(smollm2.name)
    with loading.quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def expected(plain: Any, texts: Sequence[str]) -> tuple[np.ndarray, torch.Tensor]:
    """Each choice's log-probability behind each text, and the distribution of the next token."""
    model, tokenizer = plain
    table, following = [], []
    for text in texts:
        start = len(tokenizer(text)["input_ids"])
        ids = [tokenizer(text + choice)["input_ids"] for choice in CHOICES]
        # What follows a position is blind to what stands behind it: the only choice of several
        # tokens comes last and its pass serves the others, too.
        assert [len(row) - start for row in ids[:-1]] == [1, 1]
        logprobs = model(torch.tensor(ids[-1:])).logits[0, start - 1 :].log_softmax(dim=-1)
        table.append([sum(map(float, logprobs[range(len(r) - start), r[start:]])) for r in ids])
        following.append(logprobs[0])
    return np.array(table), torch.stack(following)


def hint(smollm2: LocalBackend) -> DeltaBatch:
    """Two equal candidates: the embeddings of words that a plain prompt could hold as well."""
    rows = smollm2.embedding_table.rows(smollm2.embedding_table.tokenize(HINT))
    return DeltaBatch("soft-prompt", {"soft": np.stack([rows, rows])})


def test_untuned_scores_and_top_tokens(smollm2: LocalBackend, plain: Any) -> None:
    prompts = [
        Prompt((Words(text, True), SoftSlot("soft"), Words(" It was"), AnswerSlot()))
        for text in TEXTS
    ]

    scores = smollm2.score(ScoreRequest(prompts, CHOICES, top_k=20))

    whole = [f"{text} It was" for text in TEXTS]
    table, following = expected(plain, whole)
    np.testing.assert_allclose(scores.label_logprobs[0], table, rtol=0, atol=1e-3)
    top = torch.topk(following, 20)
    assert scores.top_ids[0].tolist() == top.indices.tolist()
    np.testing.assert_allclose(scores.top_logprobs[0], top.values, rtol=0, atol=1e-3)
    # A model that has been to school likes the first film better than the second.
    margin = scores.label_logprobs[0, :, 0] - scores.label_logprobs[0, :, 1]
    assert margin[0] > margin[1]


@pytest.mark.parametrize("in_front", [False, True], ids=["after", "in front"])
def test_a_soft_prompt_of_words_scores_as_these_words(
    in_front: bool, smollm2: LocalBackend, plain: Any
) -> None:
    pieces = [[Words(f" {text}", True), SoftSlot("soft")] for text in TEXTS]
    pieces = [piece[::-1] if in_front else piece for piece in pieces]
    prompts = [Prompt((Words("Now,"), *p, Words(" It was"), AnswerSlot())) for p in pieces]
    request = ScoreRequest(prompts, CHOICES, hint(smollm2))

    scores = smollm2.score(request)
    again = smollm2.score(request)

    whole = [
        f"Now,{HINT} {text} It was" if in_front else f"Now, {text}{HINT} It was" for text in TEXTS
    ]
    table, _ = expected(plain, whole)
    for candidate in range(2):
        np.testing.assert_allclose(scores.label_logprobs[candidate], table, rtol=0, atol=1e-3)
    assert np.array_equal(scores.label_logprobs, again.label_logprobs)
    assert scores.usage.tokens == 2 * sum(len(plain[1](text)["input_ids"]) for text in whole)
    if not in_front:
        assert again.usage.computed_tokens < scores.usage.computed_tokens


@given(st.text(min_size=1, max_size=60), st.sampled_from(CHOICES))
@settings(max_examples=100, deadline=None)
def test_pieces_are_tokenized_as_the_joined_text_is(
    smollm2: LocalBackend, text: str, choice: str
) -> None:
    encoder = smollm2._encoder

    joined = encoder.tokenize(f"{text} It was{choice}")

    pieces = [encoder.tokenize(text), encoder.continuation(" It was"), encoder.continuation(choice)]
    assert joined == [token for piece in pieces for token in piece]


def test_the_packaged_model_is_not_converted_again(
    smollm2: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(loading, "_convert", convert)

    assert loading.model_folder(smollm2.name).startswith(str(loading.cache_folder()))
