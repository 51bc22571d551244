"""What a backend takes from a model's configuration, and how it leaves a model it cannot open."""

from __future__ import annotations

import copy
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from by_the_book import batch, request_for
from changed_models import SLOT
from transformers import PreTrainedTokenizerFast

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.errors import ModelError


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
