"""A server's own tokenizer, asked over HTTP: no query, and nothing is billed for it."""

from __future__ import annotations

import json

from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires.offers import TokenizerPath
from blackbox_delta.backends.remote.wires.tokenize import read_tokens, tokenize_body
from blackbox_delta.errors import RemoteError


class ServerTokenizer:
    """What a :class:`PromptEncoder` needs of a Hugging Face tokenizer.

    Args:
        connection: The server.
        place: Where it tokenizes.
        model: The model's name there.
    """

    is_fast = False

    def __init__(self, connection: Connection, place: TokenizerPath, model: str) -> None:
        self._connection, self._place, self._model = connection, place, model

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = False
    ) -> dict[str, list[int]]:
        """Token ids of ``text``.

        Raises:
            RemoteError: The server does not tell.
        """
        del verbose  # it never warns
        body = tokenize_body(self._place, self._model, text, add_special_tokens)
        reply = self._connection.post(self._place.path, json.dumps(body).encode())
        try:
            return {"input_ids": read_tokens(reply)}
        except BrokenReply as problem:
            reason = str(problem)
        raise RemoteError(f"{self._connection.base_url} does not tell a text's tokens: {reason}")
