"""Tiny models with random weights, and tokenizers trained on the spot.

Their weights are far larger than a usual initialisation, so that attention, positions and soft
tokens move the log-probabilities by much more than any tolerance. Tests that ask for them are
skipped where torch or transformers is missing.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from blackbox_delta.backends.local import LocalBackend

CORPUS = [
    "It was great and the film is wonderful.",
    "It was good, it is great, the movie is terrible bad.",
    "The plot is terrible dull and far too long.",
    "a terrible dull film that was bad and great in the end",
    "the story was good but the acting is so bad",
    "Review: I would not go again, so it was great for me.",
    "great good terrible bad dull film movie plot story acting review",
] * 4


@dataclass(frozen=True)
class Tiny:
    """A tiny model as a user would hold it, and what the reference needs to know about it."""

    kind: str
    model: Any
    tokenizer: Any

    def wrap(self, **options: Any) -> LocalBackend:
        """A backend around a copy, so that the reference keeps its own attention."""
        from blackbox_delta.backends.local import LocalBackend

        return LocalBackend.from_objects(
            copy.deepcopy(self.model), self.tokenizer, name="tiny", **options
        )

    def save(self, folder: Path) -> None:
        """As a folder that transformers loads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


# --------------------------------------------------------------------------- tokenizers


def _wrapped(tokenizer: Any, template: str | None, **special: str) -> Any:
    from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    if template:
        named = [token for token in template.split() if token != "$A"]
        ids = [(token, tokenizer.token_to_id(token)) for token in named]
        tokenizer.post_processor = Sequence(
            [
                ByteLevel(trim_offsets=False),
                TemplateProcessing(single=template, special_tokens=ids),
            ]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(template: str | None = None) -> Any:
    """Byte-level BPE, as GPT-2's and SmolLM2's; ``template`` puts special tokens around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<pad>", "<s>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(
        tokenizer,
        template,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
    )


def _words() -> tuple[list[str], list[str]]:
    """The corpus' letters and its common words.

    Trainers break ties by chance, process by process, so these vocabularies are written down.
    """
    words = Counter(re.findall(r"\w+|[^\w\s]", " ".join(CORPUS)))
    common = sorted(word for word, count in words.items() if count > 4 and len(word) > 1)
    return sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz")), common


def word_piece() -> Any:
    """WordPiece with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    letters, words = _words()
    pieces = [*names.values(), *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {f"{name}_token": token for name, token in names.items()}
    return _wrapped(tokenizer, "[CLS] $A [SEP]", **special)


def sentence_piece(template: str | None = "$A </s>", scheme: str = "always") -> Any:
    """Unigram with ▁ for spaces, as T5's (``scheme`` "always") or Llama 2's ("first")."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters, words = _words()
    likely = [*(f"▁{word}" for word in words), "▁t", "▁a", "er", "in", "ul", "nd"]
    pieces = [(piece, -4.0) for piece in likely] + [(piece, -6.0) for piece in ["▁", *letters]]
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>", "<s>")]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces], unk_id=2))
    tokenizer.add_special_tokens([token for token, _ in special])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return _wrapped(
        tokenizer,
        template,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


# ------------------------------------------------------------------------------- models

_USUAL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED = {**_USUAL, "num_key_value_heads": 2}
_WINDOW = {**_GROUPED, "sliding_window": 5}
_BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

#: Class name, configuration and tokenizer of each architecture.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "llama": ("LlamaForCausalLM", _GROUPED, lambda: byte_level("<s> $A")),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
             byte_level),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED, byte_level),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 16}, byte_level),
    "mistral": ("MistralForCausalLM", _WINDOW, lambda: byte_level("<s> $A")),
    "gemma2": ("Gemma2ForCausalLM", {
        **_WINDOW, **_BOTH, "head_dim": 8, "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0,
    }, lambda: byte_level("<s> $A")),
    "gemma3": ("Gemma3ForCausalLM", {**_WINDOW, **_BOTH, "head_dim": 8,
                                     "query_pre_attn_scalar": 8}, byte_level),
    "opt": ("OPTForCausalLM", {
        "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "word_embed_proj_dim": 32, "max_position_embeddings": 256,
    }, byte_level),
    "gpt_neox": ("GPTNeoXForCausalLM", _USUAL, byte_level),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, byte_level),
    # More than two layers, for what goes on in some of them.
    "deep_llama": ("LlamaForCausalLM", {**_GROUPED, "num_hidden_layers": 5},
                   lambda: byte_level("<s> $A")),
    "deep_bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 5, "n_head": 4}, byte_level),
    "deep_bert": ("BertForMaskedLM", {**_USUAL, "num_hidden_layers": 5}, word_piece),
    # Its layers do not name the window: only the mask that it builds knows of it.
    "qwen2_moe": ("Qwen2MoeForCausalLM", {
        **_WINDOW, "use_sliding_window": True, "max_window_layers": 0, "num_experts": 2,
        "num_experts_per_tok": 1, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }, byte_level),
    # PEFT takes what its dense layer and shared experts are called for the experts themselves.
    "glm4_moe": ("Glm4MoeForCausalLM", {
        **_GROUPED, "head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    }, byte_level),
    # No attention at all.
    "mamba": ("MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
              byte_level),
    # Its linear layers are a class of its own.
    "falcon": ("FalconForCausalLM", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
        "new_decoder_architecture": True, "alibi": False,
    }, byte_level),
    # Scales what it looks up.
    "biogpt": ("BioGptForCausalLM", _USUAL, byte_level),
    # Its encoder does not tell where its embeddings are.
    "fsmt": ("FSMTForConditionalGeneration", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "max_position_embeddings": 256, "decoder_start_token_id": 2, "langs": ["en", "de"],
        "src_vocab_size": 360, "tgt_vocab_size": 360,
    }, lambda: byte_level("$A </s>")),
    "bert": ("BertForMaskedLM", _USUAL, word_piece),
    "roberta": ("RobertaForMaskedLM", {**_USUAL, "max_position_embeddings": 64},
                lambda: byte_level("<s> $A </s>")),
    "distilbert": ("DistilBertForMaskedLM", {
        "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 256,
    }, word_piece),
    # Rotated keys, and a window that its mask knows of.
    "modernbert": ("ModernBertForMaskedLM", {
        **_USUAL, "num_hidden_layers": 3, "global_attn_every_n_layers": 3, "cls_token_id": 1,
        "sep_token_id": 2,
    }, lambda: byte_level("<s> $A </s>")),
    # Attention of its own.
    "mpnet": ("MPNetForMaskedLM", _USUAL, lambda: byte_level("<s> $A </s>")),
    "t5": ("T5ForConditionalGeneration", {
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0,
    }, sentence_piece),
    "bart": ("BartForConditionalGeneration", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "max_position_embeddings": 256, "scale_embedding": True, "decoder_start_token_id": 2,
    }, lambda: byte_level("<s> $A </s>")),
    # Encoder-decoders with experts. All tokens of the second go to both, in an order of its own.
    "switch": ("SwitchTransformersForConditionalGeneration", {
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        "num_experts": 2, "decoder_start_token_id": 0,
    }, sentence_piece),
    "nllb_moe": ("NllbMoeForConditionalGeneration", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "max_position_embeddings": 256, "num_experts": 2, "encoder_sparse_step": 2,
        "decoder_sparse_step": 2, "scale_embedding": True, "decoder_start_token_id": 2,
    }, lambda: byte_level("<s> $A </s>")),
    # Its decoder goes on from a cache by one token at a time.
    "prophetnet": ("ProphetNetForConditionalGeneration", {
        "hidden_size": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_encoder_layers": 2,
        "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4, "max_position_embeddings": 256,
        "decoder_start_token_id": 2,
    }, lambda: byte_level("<s> $A </s>")),
}  # fmt: skip


def kind_of(class_name: str) -> str:
    """What a class of model does."""
    if class_name.endswith("ForMaskedLM"):
        return "masked"
    return "seq2seq" if class_name.endswith("ForConditionalGeneration") else "causal"


def build(architecture: str, seed: int = 0) -> Tiny:
    """A tiny model with large random weights."""
    import torch
    import transformers

    class_name, settings, make_tokenizer = ARCHITECTURES[architecture]
    tokenizer = make_tokenizer()
    model_class = getattr(transformers, class_name)
    special = dict(_SPECIAL) if "[CLS]" not in tokenizer.get_vocab() else {"pad_token_id": 0}
    if architecture in ("t5", "switch"):
        special["eos_token_id"] = 1
    config = model_class.config_class(vocab_size=len(tokenizer), **special, **settings)
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.7 if "embed" in name or "wte" in name else 0.3
            value.copy_(noise * scale if value.ndim > 1 else value + 0.1 * noise)
    return Tiny(kind_of(class_name), model, tokenizer)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    """Tiny models by architecture, each built once."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    built: dict[str, Tiny] = {}

    def get(architecture: str) -> Tiny:
        if architecture not in built:
            built[architecture] = build(architecture)
        return built[architecture]

    return get


@pytest.fixture(scope="session")
def tiny_backend(tiny: Callable[[str], Tiny]) -> Callable[[str], LocalBackend]:
    """Backends around tiny models, each wrapped once; tests leave them as they are."""
    wrapped: dict[str, LocalBackend] = {}

    def get(architecture: str) -> LocalBackend:
        if architecture not in wrapped:
            wrapped[architecture] = tiny(architecture).wrap()
        return wrapped[architecture]

    return get


@pytest.fixture(scope="session")
def soft_prompt() -> Callable[..., Any]:
    """Random soft prompts: ``soft_prompt(3, 32, soft=2)`` has λ = 3 and two tokens in ``soft``."""
    from blackbox_delta.types import DeltaBatch

    def make(candidates: int, hidden: int, seed: int = 0, **slots: int) -> DeltaBatch:
        rng = np.random.default_rng(seed)
        return DeltaBatch(
            "soft-prompt",
            {
                name: rng.normal(0, 0.7, (candidates, tokens, hidden)).astype(np.float32)
                for name, tokens in slots.items()
            },
        )

    return make


@pytest.fixture(scope="session")
def marked_spaces() -> Callable[[str], Any]:
    """Tokenizers that write spaces as ▁, by when they put one in front of a text."""
    pytest.importorskip("transformers")
    return lambda scheme: sentence_piece(scheme=scheme)
