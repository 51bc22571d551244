"""The tokenizer that a GGUF file's metadata describes.

Only byte-level vocabularies that are split as GPT-2 splits words are rebuilt: what a file says of
other kinds leaves out part of the tokenizer (Qwen's normalisation, Llama 3's whole words), and ids
that are nearly right are worse than none. The ids are those of transformers' own conversion, which
the local backend uses. llama.cpp differs from both in one thing: for ``smollm`` it also sets every
digit apart, which shows where a digit follows several spaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox_delta.backends.remote.embeddings.gguf_file import GgufFile
from blackbox_delta.backends.remote.embeddings.tokenizer import FileTokenizer, import_tokenizers
from blackbox_delta.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPLIT_AS_GPT2 = ("default", "gpt-2", "smollm")
_CONTROL, _USER_DEFINED = 3, 4  # kinds of token
_NAMED = ("bos", "eos", "unknown", "padding")


def tokenizer_from_gguf(file: GgufFile) -> FileTokenizer:
    """The tokenizer of the model in ``file``.

    Raises:
        UnsupportedError: It is of another kind than byte-level BPE split as GPT-2's.
        ModelError: The file is damaged.
        MissingExtraError: The package ``tokenizers`` is not installed.
    """
    import_tokenizers()
    model = file.value("tokenizer.ggml.model", "none")
    split = file.value("tokenizer.ggml.pre", "default")
    if model != "gpt2" or split not in _SPLIT_AS_GPT2:
        raise UnsupportedError(
            f"the tokenizer in {file.path} ({model}, {split}) cannot be rebuilt from the file "
            f"alone; put the model's tokenizer.json and tokenizer_config.json next to it, in "
            f"{file.path.parent}"
        )
    tokens = file.value("tokenizer.ggml.tokens", [])
    merges = file.value("tokenizer.ggml.merges", [])
    try:
        tokenizer = _byte_level(tokens, merges)
        _mark_added(tokenizer, tokens, file.value("tokenizer.ggml.token_type", []))
        named = _named(file, tokens)
        _set_ends(tokenizer, file, named)
        return FileTokenizer(tokenizer, {f"{name}_token": token for name, token in named.items()})
    except ModelError:
        raise
    except Exception as error:  # the library raises nothing more specific
        raise file.damaged(f"its tokenizer: {error}") from None


def _byte_level(tokens: list[str], merges: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {
        token if set(token) <= alphabet else spell.pre_tokenize_str(token)[0][0]: index
        for index, token in enumerate(tokens)
    }
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _mark_added(tokenizer: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Keeps control and user-defined tokens whole wherever they stand in a text."""
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    for token, kind in zip(tokens, kinds, strict=False):
        # A token in other letters than the byte alphabet's was marked by mistake.
        if token not in vocabulary:
            continue
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])


def _named(file: GgufFile, tokens: list[str]) -> dict[str, str]:
    """Special tokens by what they are for."""
    ids = {name: file.value(f"tokenizer.ggml.{name}_token_id") for name in _NAMED}
    return {name: tokens[index] for name, index in ids.items() if index is not None}


def _set_ends(tokenizer: Tokenizer, file: GgufFile, named: dict[str, str]) -> None:
    """Lets a text open and close with the special tokens that the file asks for."""
    from tokenizers.processors import TemplateProcessing

    asked = {
        name: named[name]
        for name in ("bos", "eos")
        if name in named and file.value(f"tokenizer.ggml.add_{name}_token", False)
    }
    parts = [asked.get("bos"), "$A", asked.get("eos")]
    tokenizer.post_processor = TemplateProcessing(
        single=[f"{part}:0" for part in parts if part],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in asked.values()],
    )
