"""How well a server does what it does: what does not change how it is used."""

from __future__ import annotations

import time
from dataclasses import replace

from blackbox_delta.backends.remote.probe.inquiry import LONG, SHORT, Inquiry
from blackbox_delta.backends.remote.probe.questions import Question
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.wire import Ask, WireReply

_AT_ONCE = 8


def measure(inquiry: Inquiry, offer: Offer) -> None:
    """Looks at everything there is to see."""
    if offer.max_top_k:
        _measure_determinism(inquiry, offer)
    _measure_prefix_cache(inquiry, offer)
    _measure_chat_template(inquiry, offer)
    _measure_speed(inquiry, offer)


def _measure_determinism(inquiry: Inquiry, offer: Offer) -> None:
    first, second = ([token.logprob for token in inquiry.top(offer)] for _ in range(2))
    if first == second:
        inquiry.say("the same question again", "the same answer, to the last digit", good=True)
        return
    gap = max((abs(a - b) for a, b in zip(first, second, strict=False)), default=0.0)
    inquiry.say("the same question again", f"log-probabilities differ by {gap:.2g}", good=False)


def _measure_prefix_cache(inquiry: Inquiry, offer: Offer) -> None:
    """Whether a text that was asked about before is computed again."""
    outcome = inquiry.ask(offer, LONG)
    cached = outcome.cached_tokens if isinstance(outcome, WireReply) else None
    if cached:
        inquiry.say("prefix cache", f"{cached} tokens of a text reused", good=True)
    else:
        inquiry.say("prefix cache", "not visible" if cached is None else "nothing reused")


def _measure_chat_template(inquiry: Inquiry, offer: Offer) -> None:
    """Whether the model has a chat template that plain completions pass by."""
    chats = [other for other in inquiry.preset.offers if other.wire == "chat"]
    if offer.wire == "chat" or not chats:
        return
    chat = replace(chats[0], temperature=offer.temperature)
    if isinstance(inquiry.ask(chat, SHORT), WireReply):
        inquiry.say("chat template", "this API does not apply the model's own; --api chat does")


def _measure_speed(inquiry: Inquiry, offer: Offer) -> None:
    began = time.monotonic()
    inquiry.ask(offer, SHORT)
    inquiry.say("round trip", f"{time.monotonic() - began:.3f} s")
    began = time.monotonic()
    asks = [Question(offer, [f"{SHORT} {at}"], Ask(inquiry.model)) for at in range(_AT_ONCE)]
    inquiry.questions.ask_all(asks)
    rate = _AT_ONCE / (time.monotonic() - began)
    inquiry.say("throughput", f"{rate:.1f} queries a second, {_AT_ONCE} at once")
