"""What a backend takes from a model's configuration, what it refuses, and how it leaves a model."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import transformers
from by_the_book import batch, request_for
from changed_models import SLOT
from transformers import PreTrainedTokenizerFast

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.errors import ConfigError, ModelError
from blackbox_delta.types import AnswerSlot, Prompt, ScoreRequest, Words


def test_sparse_attention_is_back_when_a_model_is(tiny: Any) -> None:
    """A short text makes transformers leave it for good."""
    tokenizer = tiny("bert").tokenizer
    config = transformers.BigBirdConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        block_size=4,
        num_random_blocks=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.BigBirdForMaskedLM(config).train()

    LocalBackend.from_objects(model, tokenizer, name="bird").close()

    assert model.bert.attention_type == "block_sparse"
    assert all(part.training for part in model.modules())
    kinds = {type(layer.attention.self).__name__ for layer in model.bert.encoder.layer}
    assert kinds == {"BigBirdBlockSparseAttention"}


def test_weights_that_are_not_in_memory_are_refused(tiny: Any) -> None:
    model = copy.deepcopy(tiny("llama").model)
    model.model.layers[1].to("meta")
    with pytest.raises(ModelError, match=r"of 'm' are not in memory, such as model\.layers\.1"):
        LocalBackend.from_objects(model, tiny("llama").tokenizer, name="m")


@pytest.mark.parametrize("kind", ["llama", "bloom", "bert", "t5"])
def test_a_model_serves_one_backend(kind: str, tiny: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny(kind).model).train(), tiny(kind).tokenizer
    first = LocalBackend.from_objects(model, tokenizer, name="m")
    with pytest.raises(ModelError, match=r"serves another open backend; close\(\) that first"):
        LocalBackend.from_objects(model, tokenizer, name="m")
    first.close()
    assert model.training
    LocalBackend.from_objects(model, tokenizer, name="m")


def test_a_backend_that_nobody_holds_any_more_hands_its_model_back(tiny: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny("llama").model).train(), tiny("llama").tokenizer
    own = model.config._attn_implementation
    backend = LocalBackend.from_objects(model, tokenizer, name="m")
    assert not model.training

    del backend
    gc.collect()

    assert model.training
    assert model.config._attn_implementation == own
    LocalBackend.from_objects(model, tokenizer, name="m").close()


@pytest.mark.parametrize("room", [0, -5])
def test_a_prompt_needs_room(room: int, tiny: Any) -> None:
    with pytest.raises(ConfigError, match=f"max_length = {room} leaves no room"):
        tiny("llama").wrap(max_length=room)


def test_a_closed_backend_measures_nothing(tiny: Any) -> None:
    backend = tiny("llama").wrap()
    backend.close()
    with pytest.raises(ModelError, match="has been closed"):
        _ = backend.geometry


@pytest.mark.parametrize(("text", "word"), [("x [NEW]", " great"), ("x", "[NEW]")])
def test_a_token_that_the_model_lacks_is_named(text: str, word: str, tiny: Any) -> None:
    tokenizer = copy.deepcopy(tiny("gpt2").tokenizer)
    tokenizer.add_tokens(["[NEW]"])
    model = copy.deepcopy(tiny("gpt2").model)
    backend = LocalBackend.from_objects(model, tokenizer, name="m")
    request = ScoreRequest([Prompt((Words(text), AnswerSlot()))], [word, " good"])

    with pytest.raises(ModelError, match=r"makes '\[NEW\]' token .*resize_token_embeddings"):
        backend.score(request)


def test_embeddings_are_not_read_while_a_pass_goes_through(tiny: Any) -> None:
    """Where a model is given token ids, its table then answers with soft prompts."""
    backend = tiny("llama").wrap()
    read = threading.Thread(target=backend.embedding_table.rows, args=([3],))
    with backend._turn:
        read.start()
        read.join(0.2)
        assert read.is_alive()
    read.join(10)
    assert not read.is_alive()


def test_a_model_that_cannot_be_opened_is_left_as_it_was(tiny: Any) -> None:
    model = copy.deepcopy(tiny("bert").model).train()
    model.bert.encoder.layer[1].eval()  # a user may have frozen a part
    modes = [part.training for part in model.modules()]
    maskless = PreTrainedTokenizerFast(tokenizer_object=tiny("bert").tokenizer.backend_tokenizer)

    with pytest.raises(ModelError, match="no mask token"):
        LocalBackend.from_objects(model, maskless, name="maskless")

    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_threads_may_share_a_model(model: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a candidate does inside the model is there while its own request is answered alone."""
    backend = tiny(model).wrap()
    requests = [request_for(SLOT, batch("lora", backend, 2, seed)) for seed in range(4)]
    alone = [backend.score(request).label_logprobs for request in requests]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(backend.score, requests * 5))
    finally:
        sys.setswitchinterval(interval)

    for place, scores in enumerate(together):
        np.testing.assert_array_equal(scores.label_logprobs, alone[place % 4])


def test_an_adapter_of_pefts_must_be_merged_first(tiny: Any) -> None:
    """Its layers would pass for the model's own."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    loaded = copy.deepcopy(tiny("llama").model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses what transformers will drop
        wrapped = peft.get_peft_model(copy.deepcopy(loaded), config).eval()
        loaded.add_adapter(config)

    for model in (wrapped, loaded):
        with pytest.raises(ModelError, match="adapter of PEFT's; merge it .* merge_and_unload"):
            LocalBackend.from_objects(model, tiny("llama").tokenizer, name="adapted")
    LocalBackend.from_objects(wrapped.merge_and_unload(), tiny("llama").tokenizer, name="merged")
