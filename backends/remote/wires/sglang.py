"""SGLang's own wire: ``POST ../generate``.

Prompts are words, token ids or rows of embeddings (with ``--disable-radix-cache``). Values come
as ``[logprob, id, text]``. They are taken after ``logit_bias``, unlike vLLM's and llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blackbox_delta.backends.remote.http.failures import BrokenReply
from blackbox_delta.backends.remote.wires import strict
from blackbox_delta.backends.remote.wires.choices import check_request, refuse_error
from blackbox_delta.backends.remote.wires.offers import OfferedWire
from blackbox_delta.backends.remote.wires.wire import (
    TOKEN_IDS,
    Answer,
    Ask,
    Form,
    Input,
    Token,
    WireReply,
)
from blackbox_delta.types import Json

_FIELDS = {"text": "text", "ids": "input_ids", "embeds": "input_embeds"}


@dataclass(frozen=True)
class Generate(OfferedWire):
    """``POST ../generate``; see :class:`blackbox_delta.backends.remote.wires.wire.Wire`."""

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> Json:
        """The request's JSON; prompts always go as a list, so a list comes back."""
        check_request(self.offer, prompts, ask, form)
        sampling: Json = {"max_new_tokens": ask.max_tokens, "temperature": 0, **self.offer.extra}
        if ask.bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in ask.bias.items()}
        body: Json = {_FIELDS[form]: list(prompts), "sampling_params": sampling}
        if ask.logprobs:
            body |= {"return_logprob": True, "logprob_start_len": -1}
        if ask.top_k:
            body |= {"top_logprobs_num": ask.top_k, "return_text_in_logprobs": True}
        if ask.label_ids is not None:
            body["token_ids_logprob"] = [list(ask.label_ids)] * len(prompts)
        return body

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        """The reply to ``count`` prompts, in their order."""
        if isinstance(payload, dict):
            refuse_error(payload, "the reply")
        replies = strict.items(payload, "the reply")
        if len(replies) != count:
            raise BrokenReply(f"there are {len(replies)} answers to {count} prompts")
        answers = tuple(self._answer(reply, ask, at) for at, reply in enumerate(replies))
        metas = [reply["meta_info"] for reply in replies]
        prompt, output, cached = (
            _total(metas, name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
        )
        return WireReply(answers, prompt, output, cached)

    def _answer(self, reply: Any, ask: Ask, at: int) -> Answer:
        where = f"answer {at}"
        found = strict.mapping(reply, where)
        refuse_error(found, where)
        if found.get("index", at) != at:
            raise BrokenReply(f"{where} is to another prompt")
        meta = strict.mapping(found.get("meta_info"), f"{where}.meta_info")
        tokens: list[Token] = []
        if ask.logprobs:
            name = "output_top_logprobs" if ask.top_k else "output_token_ids_logprobs"
            place = f"{where}.meta_info.{name}"
            first = strict.items(meta.get(name), place, least=1)[0]
            tokens = [_token(entry, place) for entry in strict.items(first, f"{place}[0]")]
        text = strict.string(found.get("text"), f"{where}.text")
        return strict.answer(text, tokens, ask, self.offer.may_be_fewer, where)


def _token(entry: Any, where: str) -> Token:
    triple = strict.items(entry, where, least=3)
    text = "" if triple[2] is None else strict.string(triple[2], where)
    return Token(
        strict.whole(triple[1], where, TOKEN_IDS), text.encode(), strict.logprob(triple[0], where)
    )


def _total(metas: list[dict[str, Any]], name: str) -> int | None:
    values = [strict.maybe_whole(meta.get(name), f"meta_info.{name}") for meta in metas]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
