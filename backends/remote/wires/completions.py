"""The completions wire: OpenAI's legacy endpoint, several prompts in one request.

Prompts are words, token ids, or embeddings (``prompt_embeds``, base64, as vLLM has it). Log-
probabilities come in the legacy form or, from llama.cpp and Ollama, in the chat form.
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
class Completions(OfferedWire):
    """``POST completions``; see :class:`blackbox_delta.backends.remote.wires.wire.Wire`."""

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> Json:
        """The request's JSON; one prompt goes without a list, which every server takes."""
        check_request(self.offer, prompts, ask, form)
        body = common_fields(self.offer, ask)
        field = "prompt_embeds" if form == "embeds" else "prompt"
        body[field] = list(prompts) if len(prompts) > 1 else prompts[0]
        if self._ids_as_text(ask):
            body["return_tokens_as_token_ids"] = True
        return body

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        """The reply to ``count`` prompts, in their order."""
        ids_as_text = self._ids_as_text(ask)
        return read_choices(payload, ask, count, self.offer, ids_as_text, _text)

    def _ids_as_text(self, ask: Ask) -> bool:
        return self.offer.ids_as_text and ask.logprobs > 0


def _text(choice: dict[str, Any], where: str) -> str:
    return strict.string(choice.get("text"), f"{where}.text")
