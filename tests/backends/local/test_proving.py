"""Models that make something else of embeddings, or of padding, than of token ids by themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from by_the_book import CHOICES, TEXTS, Reference, request_for
from changed_models import with_peft
from exported import FRONT, check_the_same, scored
from kept import kept

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.errors import ExportError, ModelError, UnsupportedError
from blackbox_delta.exports import export_peft
from blackbox_delta.types import AnswerSlot, DeltaBatch, Prompt, ScoreRequest, SoftSlot, Words

_USUAL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip
_TWO = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 256, "decoder_start_token_id": 2,
}  # fmt: skip
_GEMMA = {
    **_USUAL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: Kind of model, its class and its configuration.
ODD: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Scale what they look up themselves.
    "pegasus": ("seq2seq", "PegasusForConditionalGeneration", {**_TWO, "scale_embedding": True}),
    "marian": ("seq2seq", "MarianMTModel", {**_TWO, "scale_embedding": True}),
    # A table of the decoder's own.
    "marian_two_tables": ("seq2seq", "MarianMTModel", {
        **_TWO, "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False,
    }),
    # Calls its sizes by names of its own.
    "xglm": ("causal", "XGLMForCausalLM", {
        "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48,
        "max_position_embeddings": 256,
    }),
    # Layers that mix in padding.
    "fnet": ("masked", "FNetForMaskedLM", _USUAL),
    "convbert": ("masked", "ConvBertForMaskedLM", {**_USUAL, "embedding_size": 16}),
    # Embeddings for every layer, looked up by token id.
    "gemma3n": ("causal", "Gemma3nForCausalLM", {
        **_GEMMA, "intermediate_size": [48, 48], "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 2,
        "altup_num_inputs": 2,
    }),
    # Keys and values of several shapes.
    "gemma4": ("causal", "Gemma4ForCausalLM", {
        **_GEMMA, "global_head_dim": 16, "hidden_size_per_layer_input": 0,
    }),
}  # fmt: skip


def odd(name: str, tokenizer: Any) -> Any:
    """A tiny model with large random weights."""
    _, class_name, settings = ODD[name]
    own = {"vocab_size_per_layer_input": len(tokenizer)} if name == "gemma3n" else {}
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(vocab_size=len(tokenizer), **_SPECIAL, **settings, **own)
    return scaled(model_class(config))


def scaled(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.7 if "embed" in each or "shared" in each else 0.3
            value.copy_(noise * scale if value.ndim > 1 else value + 0.1 * noise)
    return model.eval()


def bert_to_bert(tokenizer: Any) -> Any:
    """A decoder that has its head within."""
    settings = {**_USUAL, "vocab_size": len(tokenizer)}
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**settings),
        transformers.BertConfig(**settings, is_decoder=True, add_cross_attention=True),
    )
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return scaled(transformers.EncoderDecoderModel(config=config))


def opened(model: Any, tokenizer: Any) -> LocalBackend:
    import copy

    return LocalBackend.from_objects(copy.deepcopy(model), tokenizer, name="odd")


def untuned(text: str) -> list[Any]:
    return [Words(text, True), Words(" It was"), AnswerSlot()]


@pytest.mark.parametrize("name", [*ODD, "bert2bert"])
def test_scores_are_those_of_token_ids(name: str, tiny: Any) -> None:
    kind = "seq2seq" if name == "bert2bert" else ODD[name][0]
    tokenizer = tiny("llama" if kind == "causal" else "bart").tokenizer
    model = bert_to_bert(tokenizer) if name == "bert2bert" else odd(name, tokenizer)

    scores = opened(model, tokenizer).score(request_for(untuned, None)).label_logprobs[0]

    reference = Reference(kind, model, tokenizer)
    with torch.no_grad():
        by_book = [
            [reference.score(Prompt(tuple(untuned(text))), choice, {}) for choice in CHOICES]
            for text in TEXTS
        ]
    np.testing.assert_allclose(scores, by_book, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["pegasus", "fnet"])
def test_the_embeddings_of_words_are_as_good_as_the_words(name: str, tiny: Any) -> None:
    tokenizer = tiny("bart").tokenizer
    backend = opened(odd(name, tokenizer), tokenizer)
    ids = tokenizer(" so dull", add_special_tokens=False)["input_ids"]
    delta = DeltaBatch("soft-prompt", {"a": backend.embedding_table.rows(ids)[None]})

    def asked(middle: Any, delta: DeltaBatch | None) -> np.ndarray:
        prompts = [Prompt((Words(text), middle, Words(" film"), AnswerSlot())) for text in TEXTS]
        return backend.score(ScoreRequest(prompts, CHOICES, delta)).label_logprobs

    words, soft = asked(Words(" so dull"), None), asked(SoftSlot("a"), delta)

    np.testing.assert_allclose(soft, words, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["pegasus", "marian"])
def test_pefts_soft_prompts_are_not_for_models_that_scale_what_they_look_up(
    name: str, tiny: Any, tmp_path: Path
) -> None:
    """PEFT hands them the text's embeddings as they are."""
    tokenizer = tiny("bart").tokenizer
    given = kept(opened(odd(name, tokenizer), tokenizer), "soft-prompt", FRONT)

    with pytest.raises(ExportError, match="something else than of its tokens; tune another"):
        export_peft(given, tmp_path)


def test_peft_need_not_know_a_models_sizes(tiny: Any, tmp_path: Path) -> None:
    tokenizer = tiny("llama").tokenizer
    model = odd("xglm", tokenizer)
    given = kept(opened(model, tokenizer), "soft-prompt", FRONT)

    export_peft(given, tmp_path)

    there = SimpleNamespace(kind="causal", tokenizer=tokenizer)
    theirs = scored(there, with_peft(model, tmp_path), " {}. It was")
    check_the_same(given, theirs)


@pytest.mark.parametrize(("name", "kind"), [("gemma3n", "soft-prompt"), ("gemma4", "prefix")])
def test_what_a_model_has_no_place_for_is_not_offered(name: str, kind: str, tiny: Any) -> None:
    tokenizer = tiny("llama").tokenizer
    backend = opened(odd(name, tokenizer), tokenizer)

    assert kind not in backend.capabilities.deltas
    assert "lora" in backend.capabilities.deltas
    if kind == "prefix":
        assert backend.geometry.layers == 0
        with pytest.raises(UnsupportedError, match="alike in all layers"):
            backend.keys_and_values([5, 6])


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("XLMWithLMHeadModel", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
        ("XLNetLMHeadModel", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
        ("BertLMHeadModel", _USUAL),
    ],
)
def test_a_model_that_sees_what_comes_later_is_no_causal_one(
    class_name: str, settings: dict[str, Any], tiny: Any
) -> None:
    """A class's name does not tell: XLM's is that of a causal model."""
    tokenizer = tiny("llama").tokenizer
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(vocab_size=len(tokenizer), **_SPECIAL, **settings)
    with pytest.raises(ModelError, match="no causal model, .* what comes later changes"):
        LocalBackend.from_objects(scaled(model_class(config)), tokenizer, name="odd")


@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_a_model_that_no_way_of_feeding_suits_is_refused(
    model: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that reads more from its ids than its table tells."""
    from blackbox_delta.backends.local import reading

    honest = reading.read_logits
    for module in ("causal", "plain"):
        monkeypatch.setattr(
            f"blackbox_delta.backends.local.{module}.read_logits",
            lambda logits, *others: honest(logits * 1.5, *others),
        )

    with pytest.raises(ModelError, match="'tiny' cannot be used: its answers are not those"):
        tiny(model).wrap()
