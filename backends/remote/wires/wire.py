"""The words of this package: what is asked of a server, and what it answered.

A *wire* is a form of request and reply. It turns prompts into a JSON body and a JSON reply into
checked numbers, and knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from blackbox_delta.types import Json

#: How a prompt goes out: words, token ids, or one embedding a token.
Form: TypeAlias = Literal["text", "ids", "embeds"]

#: One prompt: a string (text, or embeddings in base64), token ids, or rows of embeddings.
Input: TypeAlias = str | Sequence[int] | Sequence[Sequence[float]]

TOKEN_IDS = 2**31  #: ids are below this


@dataclass(frozen=True)
class Ask:
    """What is asked about every prompt of a request.

    Attributes:
        model: The model's name on the server.
        top_k: How many of the likeliest first tokens to return; 0 for none.
        label_ids: Tokens whose log-probabilities are wanted exactly; ``None`` for none. A server
            returns these in place of the likeliest tokens, so ``top_k`` is 0 then.
        max_tokens: The most tokens that the answer may have.
        bias: Token id to what is added to its logit; ``None`` for none.

    Raises:
        ValueError: A number is out of range, or ``top_k`` and ``label_ids`` are asked together.
    """

    model: str
    top_k: int = 0
    label_ids: tuple[int, ...] | None = None
    max_tokens: int = 1
    bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        if self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"top_k must be >= 0 and max_tokens >= 1, not {self}.")
        if self.label_ids is not None:
            if self.top_k:
                raise ValueError("Exact label log-probabilities replace the top tokens: ask twice.")
            if not self.label_ids or len(set(self.label_ids)) < len(self.label_ids):
                raise ValueError(f"label_ids must be distinct and not empty, not {self.label_ids}.")
        if not all(0 <= token < TOKEN_IDS for token in (*(self.label_ids or ()), *self._biased)):
            raise ValueError("Token ids must be between 0 and 2**31 - 1.")
        if not all(math.isfinite(value) for value in (self.bias or {}).values()):
            raise ValueError("Biases must be finite.")

    @property
    def logprobs(self) -> int:
        """How many log-probabilities are asked for a position; 0 for none."""
        return self.top_k if self.label_ids is None else len(self.label_ids)

    @property
    def _biased(self) -> tuple[int, ...]:
        return tuple(self.bias or ())


@dataclass(frozen=True, slots=True)
class Token:
    """A token that the answer might have begun with.

    Attributes:
        id: Its id, where the server tells.
        text: Its bytes; empty where the server tells the id alone.
        logprob: Its log-probability, finite and at most 0.
    """

    id: int | None
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one prompt.

    Attributes:
        text: What it wrote.
        top: The likeliest first tokens, likeliest first, distinct, at most ``Ask.top_k``.
        labels: Log-probabilities in the order of ``Ask.label_ids``; ``None`` if not asked.
        ended: Why it stopped writing, in the server's word; ``None`` where the wire does not tell.
        withheld: Whether a content filter kept back what was asked for; then the rest is empty.
        silent: Whether the model ended its answer at once, and the server shows no
            log-probabilities of that; then the rest is empty. Ollama and llama-cpp-python compute
            none of the token that ends an answer, however often they are asked.
    """

    text: str
    top: tuple[Token, ...] = ()
    labels: tuple[float, ...] | None = None
    ended: str | None = None
    withheld: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class WireReply:
    """A whole reply, checked.

    Attributes:
        answers: One a prompt, in the order of the prompts.
        prompt_tokens: Tokens of all prompts together, as the server counts them.
        output_tokens: Tokens that it wrote for all of them.
        cached_tokens: Prompt tokens that it had computed before; ``None`` where it does not tell.
    """

    answers: tuple[Answer, ...]
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class Wire(Protocol):
    """A form of request and reply."""

    @property
    def name(self) -> str:
        """What presets call it."""
        ...

    @property
    def path(self) -> str:
        """Where it is posted to, relative to the base URL; it may begin with ``../``."""
        ...

    @property
    def batches(self) -> bool:
        """Whether a request may hold several prompts."""
        ...

    def body(self, prompts: Sequence[Input], ask: Ask, form: Form = "text") -> Json:
        """The request's JSON.

        Raises:
            UnsupportedError: The server does not take prompts in this form.
            ValueError: There is no prompt, or there are more than one request may hold.
        """
        ...

    def read(self, payload: Any, ask: Ask, count: int) -> WireReply:
        """The reply to a request with ``count`` prompts.

        Raises:
            BrokenReply: It is not exactly what was asked for; nothing else is ever raised.
        """
        ...


def token_id(token: bytes) -> int:
    """A stable stand-in for the id of a token that a server shows as text only.

    The first 31 bits of the SHA-256 of its bytes: the same token has the same id always.
    """
    return int.from_bytes(hashlib.sha256(token).digest()[:4], "big") >> 1
