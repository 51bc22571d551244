"""A server while it is being asked what it offers, and what was found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote.connection import Connection
from blackbox_delta.backends.remote.embeddings.table import TableFile
from blackbox_delta.backends.remote.endpoint import Endpoint
from blackbox_delta.backends.remote.probe.questions import Question, Questioner
from blackbox_delta.backends.remote.wires.offers import Offer, Preset
from blackbox_delta.backends.remote.wires.wire import Answer, Ask, Form, Input, Token, WireReply
from blackbox_delta.types import AnswerSlot, Prompt, SoftSlot, Words

#: What is asked about: a short text and a long one.
SHORT = "Text: a fine day\nIn one word, it is"
LONG = (
    "Text: The parcel that I ordered three weeks ago has still not arrived, and nobody answers "
    "my messages. I have written twice, called once, and waited for half an hour on the line. "
    "Please tell me where it is, when it will be here, and what you will do about the delay, "
    "because I need it for a birthday on Friday and would otherwise buy one somewhere else.\n"
    "In one word, it is"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was found out.

    Attributes:
        what: What was looked at.
        found: What was seen, in a few words.
        good: Whether it helps; ``None`` where it neither helps nor hurts.
    """

    what: str
    found: str
    good: bool | None = None


@dataclass
class Inquiry:
    """One probe under way.

    Attributes:
        endpoint: Where the server is.
        connection: The server.
        preset: What kind of server it is taken for.
        table: The model's embedding table and tokenizer, where they are given.
        model: The model that is asked.
        plain: The answer to the short text, with as many top tokens as there are.
        findings: Everything that was found, in the order it was looked for.
    """

    endpoint: Endpoint
    connection: Connection
    preset: Preset
    table: TableFile | None
    model: str = ""
    plain: Answer = field(default_factory=lambda: Answer(""))
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.questions = Questioner(self.connection)

    def ask(
        self, offer: Offer, prompt: Input, form: Form = "text", **wanted: Any
    ) -> WireReply | str:
        """The reply to one prompt, or in a few words why there is none."""
        return self.questions.ask(Question(offer, [prompt], Ask(self.model, **wanted), form))

    def top(self, offer: Offer) -> tuple[Token, ...]:
        """The likeliest tokens after the short text, asked for anew."""
        outcome = self.ask(offer, SHORT, top_k=offer.max_top_k)
        return outcome.answers[0].top if isinstance(outcome, WireReply) else ()

    def say(self, what: str, found: str, *, good: bool | None = None) -> None:
        """Writes down what was found; see :class:`Finding`."""
        self.findings.append(Finding(what, found, good))


def distance(one: Answer, other: Answer, tokens: int = 5) -> float:
    """How far the likeliest tokens' log-probabilities differ; infinite if the tokens do."""
    seen = {token.id if token.id is not None else token.text: token.logprob for token in other.top}
    gaps = [
        abs(token.logprob - seen.get(token.id if token.id is not None else token.text, -np.inf))
        for token in one.top[:tokens]
    ]
    return float(max(gaps, default=np.inf))


def token_ids(table: TableFile, text: str) -> list[int]:
    """The tokens of a prompt that is nothing but ``text``, those included that open a sequence."""
    prompt = Prompt((Words(text), AnswerSlot()))
    pieces = PromptEncoder(table.tokenizer, "causal", 1 << 30).encode(prompt, {}, 1).before
    return [token for piece in pieces if not isinstance(piece, SoftSlot) for token in piece]
