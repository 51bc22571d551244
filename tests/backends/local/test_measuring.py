"""Which modules a delta can act on, whatever a model's shapes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from by_the_book import batch, request_for
from changed_models import SLOT

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.backends.local.batching import MemoryLimit
from blackbox_delta.deltas.targets import select
from blackbox_delta.errors import OutOfMemoryError


def relative(tiny: Any, span: int) -> LocalBackend:
    """A DeBERTa whose table of relative positions has 2 · ``span`` rows."""
    tokenizer = tiny("bert").tokenizer
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, relative_attention=True,
        max_relative_positions=span, pos_att_type=["c2p", "p2c"], share_att_key=False,
        norm_rel_ebd="layer_norm", type_vocab_size=0, pad_token_id=0,
    )  # fmt: skip
    model = transformers.DebertaV2ForMaskedLM(config).eval()
    return LocalBackend.from_objects(model, tokenizer, name="relative")


@pytest.mark.parametrize("span", [30, 36, 64])
def test_a_table_of_positions_is_no_batch_of_rows(span: int, tiny: Any) -> None:
    """However many rows it has: some may be two or three times a number of tokens."""
    backend = relative(tiny, span)

    names = [module.name for module in select(backend.geometry, "all")]

    assert "deberta.encoder.layer.0.attention.self.query_proj" in names
    assert not [name for name in names if "pos_" in name or name == "deberta.encoder.LayerNorm"]
    delta = batch("bitfit", backend, 3)
    together = backend.score(request_for(SLOT, delta)).label_logprobs
    alone = [
        backend.score(request_for(SLOT, delta.select([row]))).label_logprobs for row in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["llama", "bloom", "bert", "t5"])
def test_a_model_that_could_not_be_measured_is_measured_later(
    model: str, tiny: Any, tiny_backend: Any
) -> None:
    """Rows that had to go through in parts tell nothing; there may be room the next time."""
    backend = tiny(model).wrap()
    limit = backend._engine.limit
    room, limit._bytes = limit._bytes, 1
    with pytest.raises(OutOfMemoryError, match="3 rows of 11 tokens at once; free some memory"):
        _ = backend.geometry
    limit._bytes = room

    measured = backend.geometry
    assert measured.modules == tiny_backend(model).geometry.modules
    assert isinstance(limit, MemoryLimit)
