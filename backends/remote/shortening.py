"""Texts that their server finds longer than the model's context: less of them is asked about.

Where the context and the tokenizer are known, texts are cut to fit before they are sent. A server
that takes words alone is the only one to know what fits; it refuses the rest, which costs nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from blackbox_delta.backends.prompt_encoder import fair_shares
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.types import Prompt, Words

logger = logging.getLogger(__name__)

#: What is left of the texts each time. Less would take fewer requests, and waste context.
_SHARE = 0.75


class Shortening:
    """Cuts the texts that one server refuses for their length, and tells of the first.

    Args:
        connection: The server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = False

    def __call__(self, prompt: Prompt) -> Prompt | None:
        """A prompt with three quarters of its texts; ``None`` where hardly anything is left."""
        shorter = shortened(prompt)
        if shorter is not None and not self._told:
            self._told = True
            text = max((words.text for words in _texts(prompt).values()), key=len)
            logger.warning(
                "%s: texts that are longer than the model's context are cut, the first of them %r",
                self._connection.base_url,
                self._connection.excerpt(text),
            )
        return shorter


def shortened(prompt: Prompt) -> Prompt | None:
    """A prompt with the beginning of its texts alone, the longest cut most."""
    segments, texts = list(prompt.segments), _texts(prompt)
    lengths = [len(words.text) for words in texts.values()]
    room = int(_SHARE * sum(lengths))
    if not room:
        return None
    for (place, words), keep in zip(texts.items(), fair_shares(lengths, room), strict=True):
        segments[place] = replace(words, text=words.text[:keep])
    return Prompt(tuple(segments))


def _texts(prompt: Prompt) -> dict[int, Words]:
    """What may be cut, by its place among the segments."""
    return {
        place: each
        for place, each in enumerate(prompt.segments)
        if isinstance(each, Words) and each.truncatable
    }
