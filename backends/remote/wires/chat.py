"""The chat wire: one prompt a request, as the user's only turn.

Tokens come as text, because the words of an answer are told apart by their letters (models vary
case and spaces); as ids only where label ids are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.choices import check_request, common_fields, read_choices
from blackbox_delta.backends.remote.wires.offers import OfferedWire
from blackbox_delta.backends.remote.wires.wire import Ask, Form, Input, WireReply
from blackbox_delta.types import Json


@dataclass(frozen=True)
class Chat(OfferedWire):
    """``POST chat/completions``; see :class:`blackbox_delta.backends.remote.wires.wire.Wire`."""

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> Json:
        """The request's JSON."""
        check_request(self.offer, prompts, ask, form)
        body = common_fields(self.offer, ask)
        body["messages"] = [{"role": "user", "content": prompts[0]}]
        if self._ids_as_text(ask):
            body["return_tokens_as_token_ids"] = True
        return body

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        """The reply to the one prompt."""
        ids_as_text = self._ids_as_text(ask)
        return read_choices(payload, ask, count, self.offer, ids_as_text, _text)

    def _ids_as_text(self, ask: Ask) -> bool:
        return self.offer.ids_as_text and ask.label_ids is not None


def _text(choice: dict[str, Any], where: str) -> str:
    """What the assistant wrote; nothing if it spent its tokens on reasoning or refused."""
    message = strict.mapping(choice.get("message"), f"{where}.message")
    content = message.get("content")
    return "" if content is None else strict.string(content, f"{where}.message.content")
