"""llama.cpp's own wire: ``POST ../completion``, one prompt a request.

Its slots work on concurrent requests side by side, so several prompts in one gain nothing. Values
are taken before any sampling method, ``logit_bias`` included, and come with ids and bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.choices import check_request, refuse_error
from blackbox_delta.backends.remote.wires.logprob_forms import token_bytes
from blackbox_delta.backends.remote.wires.offers import OfferedWire
from blackbox_delta.backends.remote.wires.wire import TOKEN_IDS, Ask, Form, Input, Token, WireReply
from blackbox_delta.types import Json


@dataclass(frozen=True)
class Completion(OfferedWire):
    """``POST ../completion``; see :class:`blackbox_delta.backends.remote.wires.wire.Wire`."""

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> Json:
        """The request's JSON."""
        check_request(self.offer, prompts, ask, form)
        prompt = prompts[0] if isinstance(prompts[0], str) else list(prompts[0])
        body: Json = {"prompt": prompt, "n_predict": ask.max_tokens, "temperature": 0}
        body |= {"model": ask.model, **self.offer.extra}
        if ask.top_k:
            body["n_probs"] = ask.top_k
        if ask.bias:
            body["logit_bias"] = [[token, bias] for token, bias in ask.bias.items()]
        return body

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        """The reply to the one prompt."""
        reply = strict.mapping(payload, "the reply")
        refuse_error(reply, "the reply")
        strict.whole(reply.get("index", 0), "index", below=count)
        tokens: list[Token] = []
        if ask.top_k:
            place = "completion_probabilities"
            first = strict.mapping(strict.items(reply.get(place), place, least=1)[0], place)
            place = f"{place}[0].top_logprobs"
            tokens = [
                _token(strict.mapping(entry, place), place)
                for entry in strict.items(first.get("top_logprobs"), place)
            ]
        text = strict.string(reply.get("content"), "content")
        return WireReply(
            (strict.answer(text, tokens, ask, self.offer.may_be_fewer, "the reply"),),
            strict.maybe_whole(reply.get("tokens_evaluated"), "tokens_evaluated"),
            strict.maybe_whole(reply.get("tokens_predicted"), "tokens_predicted"),
            strict.maybe_whole(strict.pick(reply, "timings", "cache_n"), "timings.cache_n"),
        )


def _token(entry: dict[str, Any], where: str) -> Token:
    text = strict.string(entry.get("token"), where)
    return Token(
        strict.whole(entry.get("id"), where, TOKEN_IDS),
        token_bytes(entry.get("bytes"), text, where),
        strict.logprob(entry.get("logprob"), where),
    )
