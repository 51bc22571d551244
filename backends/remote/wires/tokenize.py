"""Token ids from a server's own tokenizer: the request and the reply."""

from __future__ import annotations

from typing import Any

from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.offers import TokenizerPath
from blackbox_delta.backends.remote.wires.wire import TOKEN_IDS
from blackbox_delta.types import Json


def tokenize_body(tokenizer: TokenizerPath, model: str, text: str, special: bool) -> Json:
    """The request; ``special`` adds the tokens that open a prompt (a beginning of sequence)."""
    return {
        "model": model,
        tokenizer.text_field: text,
        tokenizer.special_field: special,
    }


def read_tokens(payload: Any) -> list[int]:
    """The token ids.

    Raises:
        BrokenReply: It holds no list of token ids.
    """
    tokens = strict.items(strict.mapping(payload, "the reply").get("tokens"), "tokens")
    return [strict.whole(token, "a token", TOKEN_IDS) for token in tokens]
