"""The two forms in which OpenAI-like servers write log-probabilities.

* The *legacy* form: ``{"tokens": […], "token_logprobs": […], "top_logprobs": [{token: logprob}]}``.
  OpenAI and vLLM answer completions in it, Together also chats.
* The *chat* form: ``{"content": [{"token", "logprob", "bytes", "top_logprobs": [{…}]}]}``, at
  llama.cpp with an ``id`` too. llama.cpp and Ollama also answer completions in it.

Only the first position is read.
"""

from __future__ import annotations

import re
from typing import Any

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.wire import TOKEN_IDS, Token

_TOKEN_ID = re.compile(r"token_id:([0-9]{1,10})", re.ASCII)


def first_tokens(logprobs: Any, ids_as_text: bool, where: str) -> list[Token]:
    """The tokens of the first position with their log-probabilities, in either form.

    Args:
        logprobs: The ``logprobs`` of a choice.
        ids_as_text: Whether tokens were asked for as ``token_id:N``.
        where: The place, for the message.

    Raises:
        BrokenReply: It is neither form, or holds no position.
    """
    found = strict.mapping(logprobs, where)
    if found.get("content") is not None:
        return _chat_form(found["content"], ids_as_text, f"{where}.content")
    return _legacy_form(found, ids_as_text, where)


def shows_nothing(logprobs: Any) -> bool:
    """Whether there is not one position, in either form."""
    return logprobs is None or (isinstance(logprobs, dict) and not any(logprobs.values()))


def _chat_form(content: Any, ids_as_text: bool, where: str) -> list[Token]:
    first = strict.mapping(strict.items(content, where, least=1)[0], f"{where}[0]")
    where = f"{where}[0].top_logprobs"
    return [
        _chat_token(strict.mapping(entry, where), ids_as_text, where)
        for entry in strict.items(first.get("top_logprobs"), where)
    ]


def _chat_token(entry: dict[str, Any], ids_as_text: bool, where: str) -> Token:
    value = strict.logprob(entry.get("logprob"), where)
    text = strict.string(entry.get("token"), where)
    if ids_as_text:
        return Token(_id_in(text, where), b"", value)
    return Token(
        strict.maybe_whole(entry.get("id"), where, TOKEN_IDS),
        token_bytes(entry.get("bytes"), text, where),
        value,
    )


def _legacy_form(found: dict[str, Any], ids_as_text: bool, where: str) -> list[Token]:
    strict.items(found.get("tokens"), f"{where}.tokens", least=1)
    where = f"{where}.top_logprobs"
    first = strict.items(found.get("top_logprobs"), where, least=1)[0]
    tokens = []
    for text, value in strict.mapping(first, where).items():
        logprob = strict.logprob(value, where)
        if ids_as_text:
            tokens.append(Token(_id_in(text, where), b"", logprob))
        else:
            tokens.append(Token(None, strict.string(text, where).encode(), logprob))
    return tokens


def token_bytes(value: Any, text: str, where: str) -> bytes:
    """A token's bytes, from the list of them or else from its text."""
    return text.encode() if value is None else strict.raw_bytes(value, where)


def _id_in(text: str, where: str) -> int:
    match = _TOKEN_ID.fullmatch(text)
    if match is None or int(match[1]) >= TOKEN_IDS:
        raise BrokenReply(f"{where} should name tokens by their ids but does not")
    return int(match[1])
