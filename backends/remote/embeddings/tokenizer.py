"""A model's tokenizer from its ``tokenizer.json``, without transformers.

Gives the ids that transformers' ``AutoTokenizer`` gives, so that a prompt is the same whether the
model runs here or behind an API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbox_delta.errors import MissingExtraError, ModelError
from blackbox_delta.types import Json

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class FileTokenizer:
    """A ``tokenizers.Tokenizer`` behind the calls of a Hugging Face tokenizer.

    Args:
        tokenizer: What does the work; it is changed.
        config: What ``tokenizer_config.json`` says of special tokens. Which of them open and close
            a text is for ``tokenizer`` to know; transformers, too, goes by tokenizer.json there.
    """

    is_fast = True

    def __init__(self, tokenizer: Tokenizer, config: Json) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _add_tokens(tokenizer, config)
        tokenizer.encode_special_tokens = bool(config.get("split_special_tokens", False))

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        verbose: bool = False,
    ) -> dict[str, list[Any]]:
        """Token ids of ``text``, and where asked for, the characters that each came from."""
        del verbose  # it never warns
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        if return_offsets_mapping:
            return {"input_ids": encoding.ids, "offset_mapping": encoding.offsets}
        return {"input_ids": encoding.ids}

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text that token ids stand for, special tokens included unless they are skipped."""
        del clean_up_tokenization_spaces  # it never cleans up
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, added tokens included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)


def read_tokenizer(folder: Path) -> FileTokenizer:
    """The tokenizer of the model in ``folder``.

    Raises:
        ModelError: Its files are missing or damaged.
        MissingExtraError: The package ``tokenizers`` is not installed.
    """
    tokenizers = import_tokenizers()
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"there is no {FILE} in {folder}; download it from the place the model came from"
        )
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    try:
        return FileTokenizer(tokenizers.Tokenizer.from_file(str(path)), config)
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"cannot read {path}: {error}. Download it again") from None


def import_tokenizers() -> Any:
    """The package ``tokenizers``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import tokenizers
    except ModuleNotFoundError:
        purpose = "turning prompts into embeddings on this side"
        raise MissingExtraError("tokenizers", "embeddings", purpose) from None
    return tokenizers


def read_json(path: Path) -> Json:
    """A file that holds one JSON object.

    Raises:
        ModelError: It is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is not JSON; download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object; download it again")
    return content


def _add_tokens(tokenizer: Tokenizer, config: Json) -> None:
    """Makes whole tokens of those that the configuration names; known ones stay as they are."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in _tokens(config):
        if token.content in known:
            continue
        known.add(token.content)
        if token.special:
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])


def _tokens(config: Json) -> Iterator[AddedToken]:
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        yield _token(token, special=False)
    for name in _NAMED:
        if token := config.get(f"{name}_token"):
            yield _token(token, special=True)
    for name, token in config.items():  # of one model's own, e.g. "image_token"
        if name.endswith("_token") and token and isinstance(token, str):
            yield _token(token, special=True)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name) or []
        for token in more.values() if isinstance(more, dict) else more:
            yield _token(token, special=True)


def _token(described: str | Json, *, special: bool) -> AddedToken:
    from tokenizers import AddedToken

    if isinstance(described, str):
        return AddedToken(described, special=special, normalized=False)
    names = ("single_word", "lstrip", "rstrip", "normalized")
    settings = {name: bool(described[name]) for name in names if name in described}
    special = special or bool(described.get("special", False))
    return AddedToken(described["content"], special=special, **settings)
