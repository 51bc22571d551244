"""From a preset to the wires it names."""

from __future__ import annotations

from blackbox_delta.backends.remote.wires.chat import Chat
from blackbox_delta.backends.remote.wires.completions import Completions
from blackbox_delta.backends.remote.wires.llama_cpp import Completion
from blackbox_delta.backends.remote.wires.offers import Offer
from blackbox_delta.backends.remote.wires.sglang import Generate
from blackbox_delta.backends.remote.wires.wire import Wire


def open_wire(offer: Offer) -> Wire:
    """The wire that an offer describes."""
    match offer.wire:
        case "completions":
            return Completions(offer)
        case "chat":
            return Chat(offer)
        case "sglang":
            return Generate(offer)
        case "llama.cpp":
            return Completion(offer)
