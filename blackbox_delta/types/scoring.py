"""What a backend is asked, what it answers, and what it can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from blackbox_delta.geometry import Geometry
from blackbox_delta.types.arrays import FloatArray, IntArray, Json
from blackbox_delta.types.deltas import DeltaBatch, EmbeddingTable
from blackbox_delta.types.prompts import Prompt


@dataclass(frozen=True)
class ScoreRequest:
    """λ candidates × n prompts × c choices to be scored, or n prompts each under its own candidate.

    Attributes:
        prompts: n rendered prompts.
        choices: c label words, each with the space that precedes it where there is one.
        delta: λ candidates; ``None`` asks for the untuned model (λ = 1, soft slots empty).
        top_k: How many of the likeliest tokens at the answer position to return; 0 for none.
        repeat: Distinguishes deliberate repetitions, which must not be answered from a journal.
        purpose: What it is for, in a word, e.g. ``"search"``; kept with the reply, not part of
            what determines it.
        max_sent: The most queries that may be sent for it, those included whose reply is lost;
            ``None`` for as many as it takes.
        assignment: n positions among the candidates: prompt i is asked about under candidate
            ``assignment[i]`` alone, and the reply is of one row, as if λ were 1. ``None`` asks
            about all pairs.
    """

    prompts: Sequence[Prompt]
    choices: Sequence[str]
    delta: DeltaBatch | None = None
    top_k: int = 0
    repeat: int = 0
    purpose: str = ""
    max_sent: int | None = None
    assignment: tuple[int, ...] | None = None

    @property
    def candidates(self) -> int:
        """λ, the number of candidates that each prompt is asked about under."""
        return 1 if self.delta is None or self.assignment is not None else len(self.delta)

    @property
    def queries(self) -> int:
        """λ·n, the number of example-forwards that an API would bill."""
        return self.candidates * len(self.prompts)


@dataclass(frozen=True)
class Evidence:
    """What the model said about n examples under one candidate: all that a head sees.

    Attributes:
        label_logprobs: (n, c) float32, log-probability of each label word (summed over its tokens).
        top_ids: (n, k) int64 token ids, likeliest first; k may be 0.
        top_logprobs: (n, k) float32, their log-probabilities.
    """

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray

    def __len__(self) -> int:
        return len(self.label_logprobs)

    @property
    def unanswered(self) -> NDArray[np.bool_]:
        """(n,) Where no label could be read of the answer; see :func:`no_label`."""
        alike = no_label(self.label_logprobs.shape[1])
        told: NDArray[np.bool_] = (self.label_logprobs == alike).all(axis=1)
        return told

    def select(self, rows: Sequence[int] | slice | IntArray) -> Evidence:
        """The given examples, in the given order."""
        return Evidence(self.label_logprobs[rows], self.top_ids[rows], self.top_logprobs[rows])

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """The examples of all parts, one part after the other."""
        names = ("label_logprobs", "top_ids", "top_logprobs")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def no_label(count: int) -> FloatArray:
    """The (c,) log-probabilities of an answer of which no label could be read: each has 1/c."""
    return np.full(count, -math.log(count), np.float32)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, and what its replies are worth.

    Attributes:
        queries: Example-forwards, λ·n.
        tokens: Prompt tokens as an API would count them, soft tokens included.
        computed_tokens: Tokens that really went through the model after reuse.
        seconds: Wall time spent in the backend.
        output_tokens: Tokens that the model wrote, as an API would count them.
        lost: Queries that were sent, got no usable reply and had to be sent again; an API may bill
            them all the same.
        bounded: Label log-probabilities that are upper bounds, because the label was not among the
            tokens that were returned.
        unparsed: Replies in which no label could be read.
    """

    queries: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    output_tokens: int = 0
    lost: int = 0
    bounded: int = 0
    unparsed: int = 0

    def __add__(self, other: Usage) -> Usage:
        names = self.__slots__
        return Usage(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class Reply:
    """A backend's answer to one pair of a :class:`ScoreRequest`.

    Attributes:
        candidate: Which of the λ candidates.
        prompt: Which of the n prompts.
        label_logprobs: (c,) float32.
        top_ids: (k,) int64, likeliest first.
        top_logprobs: (k,) float32.
        usage: What this pair cost.
    """

    candidate: int
    prompt: int
    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    usage: Usage


#: Takes replies as they come; whatever it raises ends the request.
Sink: TypeAlias = Callable[[Sequence[Reply]], None]


@dataclass(frozen=True)
class Scores:
    """A backend's reply to a :class:`ScoreRequest`.

    Attributes:
        label_logprobs: (λ, n, c) float32.
        top_ids: (λ, n, k) int64, likeliest first.
        top_logprobs: (λ, n, k) float32.
        usage: What it cost.
    """

    label_logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    usage: Usage = field(default_factory=Usage)

    def __len__(self) -> int:
        return len(self.label_logprobs)

    def candidate(self, index: int) -> Evidence:
        """What one candidate made the model say."""
        return Evidence(self.label_logprobs[index], self.top_ids[index], self.top_logprobs[index])

    def __iter__(self) -> Iterator[Evidence]:
        return (self.candidate(index) for index in range(len(self)))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend accepts and returns; checked before the first query.

    Attributes:
        deltas: Kinds of delta that can be applied, e.g. ``{"soft-prompt"}``; empty for text only.
        decoder_slot: Whether templates may use ``{decoder}`` (sequence-to-sequence models).
        text_after_answer: Whether words after ``{label}`` reach the model (masked models).
        max_top_k: The largest ``top_k`` that a request may ask for; 0 for none.
        chat: Whether the prompt is a turn of a chat, which the answer replies to; otherwise the
            answer continues the prompt's words.
        exact_tokens: Whether ``count_tokens`` is what will be billed, not an estimate.
        output_tokens: The most tokens that a reply may write and an API would bill.
        assigns: Whether a request may assign its own candidate to each prompt. It also promises
            that a label word's log-probability is the same whatever the other label words are.
        max_length: The longest prompt in tokens; ``None`` where it is not known or has no end.
    """

    deltas: frozenset[str]
    decoder_slot: bool
    text_after_answer: bool
    max_top_k: int
    chat: bool = False
    exact_tokens: bool = True
    output_tokens: int = 0
    assigns: bool = False
    max_length: int | None = None


@runtime_checkable
class Backend(Protocol):
    """A frozen model that can be called.

    Replies are finite numbers or an error: a failed, truncated or NaN reply raises
    :class:`blackbox_delta.errors.BackendError` and never becomes a score.
    """

    @property
    def name(self) -> str:
        """The model as the user named it."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines a reply: weights, precision, tokenizer."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the model: its weights, configuration and tokenizer, whatever the machine."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it accepts and returns."""
        ...

    @property
    def embedding_table(self) -> EmbeddingTable | None:
        """The input embeddings, or ``None`` where they cannot be read."""
        ...

    @property
    def geometry(self) -> Geometry | None:
        """What deltas inside the model can act on, or ``None`` where they cannot."""
        ...

    @property
    def address(self) -> Json:
        """What ``open_backend`` needs beside the name to reach it again; never a secret."""
        ...

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """Scores of shape (λ, n, c). Spends ``request.queries`` queries.

        A backend whose replies come one after another hands each to ``sink`` as soon as it is
        there, every pair at most once. Pairs that never went to ``sink`` are in the scores alone.

        Raises:
            UnsupportedError: The request asks for something outside ``capabilities``.
            BackendError: No sound reply could be had.
            SpentError: Replies were lost, and sending again would exceed ``request.max_sent``.

        Whatever is raised after something was sent tells by :func:`errors.tell_lost` how many
        queries no reply that went to ``sink`` tells of, so that they are paid for in the books too.
        """
        ...

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens (n,) that one candidate costs for each prompt; asks nothing.

        The same for the same request, always. An estimate if ``capabilities`` say so.
        """
        ...

    def close(self) -> None:
        """Releases what the backend holds."""
        ...
