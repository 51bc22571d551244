"""How long a text a model reads: from whatever its configuration calls that."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import transformers

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.types import AnswerSlot, Prompt, ScoreRequest, Words


@pytest.mark.parametrize("said", [-1, 0, None])
def test_a_context_that_is_no_number_of_tokens_limits_nothing(said: int | None, tiny: Any) -> None:
    """Models whose positions have no end say -1."""
    model = copy.deepcopy(tiny("bloom").model)
    model.config.max_position_embeddings = said

    backend = LocalBackend.from_objects(model, tiny("bloom").tokenizer, name="endless")

    assert backend._encoder.max_length == 1024


def test_positions_need_not_be_an_embedding_of_torch(tiny: Any) -> None:
    """I-BERT's are a module of its own, which has no ``num_embeddings``."""
    model = copy.deepcopy(tiny("roberta").model)
    table = model.roberta.embeddings.position_embeddings
    del table.num_embeddings

    backend = LocalBackend.from_objects(model, tiny("roberta").tokenizer, name="own table")

    assert backend._encoder.max_length == len(table.weight) - table.padding_idx - 1


def test_with_longrope_the_context_is_what_is_turned_alike(tiny: Any) -> None:
    """Beyond it one long text changes what the others of its batch are answered."""
    tokenizer = tiny("llama").tokenizer
    config = transformers.Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=32,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0, 5.0, 6.0, 8.0],
            "original_max_position_embeddings": 32,
        },
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.Phi3ForCausalLM(config)
    backend = LocalBackend.from_objects(model, tokenizer, name="phi")
    prompts = [Prompt((Words("great " * n, True), AnswerSlot())) for n in (2, 9, 60)]

    together = backend.score(ScoreRequest(prompts, [" great", " dull"])).label_logprobs

    assert backend.capabilities.max_length == 32
    for row, prompt in enumerate(prompts):
        alone = backend.score(ScoreRequest([prompt], [" great", " dull"])).label_logprobs
        np.testing.assert_allclose(together[:, [row]], alone, rtol=0, atol=1e-4)


def led(tokenizer: Any) -> Any:
    config = transformers.LEDConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=32, attention_window=8, decoder_start_token_id=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LEDForConditionalGeneration(config)


def mpt(tokenizer: Any) -> Any:
    config = transformers.MptConfig(
        vocab_size=len(tokenizer), d_model=32, n_heads=4, n_layers=2, max_seq_len=32
    )
    return transformers.MptForCausalLM(config)


@pytest.mark.parametrize("make", [led, mpt])
def test_texts_are_cut_to_contexts_of_other_names(make: Any, tiny: Any) -> None:
    tokenizer = tiny("gpt2").tokenizer
    backend = LocalBackend.from_objects(make(tokenizer).eval(), tokenizer, name="named")
    prompt = Prompt((Words("a good film " * 40, True), Words(" It was"), AnswerSlot()))

    scores = backend.score(ScoreRequest([prompt], [" great", " dull"]))

    assert backend.capabilities.max_length == 32
    assert np.isfinite(scores.label_logprobs).all()
