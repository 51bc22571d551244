"""What a backend takes from a model's configuration, and how it leaves a model it cannot open."""

from __future__ import annotations

import copy
from typing import Any

import pytest
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
