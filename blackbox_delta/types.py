"""The words that every part shares. Of ours it imports nothing but models' shapes and tensors.

Letters mean the same everywhere: λ candidates, n examples, c choices,
d search dimension, D delta size, k top tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from blackbox_delta import tensors as of_tensors
from blackbox_delta.geometry import Geometry
from blackbox_delta.tensors import Tensors, Theta

FloatArray: TypeAlias = NDArray[np.float32]
Vector: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
Json: TypeAlias = dict[str, Any]


# --------------------------------------------------------------------------- data


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or a pair of texts, with its label where it is known."""

    text: str
    text_pair: str | None = None
    label: str | None = None


# ------------------------------------------------------------------------ prompts


@dataclass(frozen=True, slots=True)
class Words:
    """Fixed text. Only pieces that are ``truncatable`` (the user's text) may be shortened."""

    text: str
    truncatable: bool = False


@dataclass(frozen=True, slots=True)
class SoftSlot:
    """Where the soft prompt called ``name`` sits; empty for a candidate without one."""

    name: str


@dataclass(frozen=True, slots=True)
class DecoderStart:
    """What follows goes to the decoder (sequence-to-sequence models only)."""


@dataclass(frozen=True, slots=True)
class AnswerSlot:
    """Where the choice is read or filled in."""


Segment: TypeAlias = Words | SoftSlot | DecoderStart | AnswerSlot


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered template: segments in reading order, with exactly one :class:`AnswerSlot`."""

    segments: tuple[Segment, ...]

    def digest(self) -> bytes:
        """SHA-256 over everything a reply to this prompt depends on."""
        return hashlib.sha256(repr(self.segments).encode()).digest()


# ------------------------------------------------------------------------- deltas

SOFT_PROMPT, DEEP_PROMPT = "soft-prompt", "deep-prompt"
IN_SLOTS = (SOFT_PROMPT, DEEP_PROMPT)
"""Kinds of delta whose tensors stand among the tokens, in the template's slots."""
AT_LAYER = "@"
"""Between a slot and a layer in the name of a deep prompt's tensor."""


@dataclass(frozen=True)
class DeltaBatch:
    """λ candidates of one kind of delta, or of several kinds at the same time, to be applied.

    Attributes:
        kind: What the tensors are, e.g. ``"soft-prompt"``; a backend declares the kinds it takes.
        tensors: Name to float32 array of shape (λ, …); large ones are made each time that they are
            read (see :mod:`blackbox_delta.tensors`). For a soft prompt: slot name to
            (λ, tokens, hidden); for a deep prompt beside these ``"SLOT@LAYER"``, what is added
            there to the states that enter a layer. For what acts inside a model: a module's name,
            a dot and the name of the part, e.g. ``"model.layers.0.mlp.up_proj.lora_A"``.
        token_ids: Tokens that all candidates start from (prefixes); often none.
        beside: λ candidates of other kinds that act after this one, in the same pass.
    """

    kind: str
    tensors: Tensors
    token_ids: tuple[int, ...] = ()
    beside: tuple[DeltaBatch, ...] = ()

    def __len__(self) -> int:
        return of_tensors.shape(self.tensors, next(iter(self.tensors)))[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors' shapes (λ, …), without making any."""
        return {name: of_tensors.shape(self.tensors, name) for name in self.tensors}

    @property
    def parts(self) -> tuple[DeltaBatch, ...]:
        """One batch for each kind, in the order in which they act."""
        alone = replace(self, beside=()) if self.beside else self
        return (alone, *(part for each in self.beside for part in each.parts))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each part."""
        return tuple(part.kind for part in self.parts)

    @property
    def slots(self) -> dict[str, int]:
        """Soft slots that it fills: name to number of soft tokens."""
        return {
            name: shape[1]
            for part in self.parts
            if part.kind in IN_SLOTS
            for name, shape in part.shapes.items()
            if AT_LAYER not in name
        }

    @property
    def structure(self) -> tuple[Hashable, ...]:
        """Kinds, names and shapes: batches that agree in it can be joined."""
        return tuple(
            (
                part.kind,
                part.token_ids,
                *sorted((name, shape[1:]) for name, shape in part.shapes.items()),
            )
            for part in self.parts
        )

    @classmethod
    def joined(cls, batches: Sequence[DeltaBatch]) -> DeltaBatch:
        """The candidates of all batches, which are of the same structure, one after the other."""
        first = batches[0]
        tensors = of_tensors.joined([each.tensors for each in batches])
        beside = zip(*(each.beside for each in batches), strict=True)
        return replace(first, tensors=tensors, beside=tuple(map(cls.joined, beside)))

    def select(self, candidates: Sequence[int]) -> DeltaBatch:
        """The given candidates, in the given order."""
        tensors = of_tensors.selected(self.tensors, candidates)
        beside = tuple(part.select(candidates) for part in self.beside)
        return replace(self, tensors=tensors, beside=beside)

    def digest(self, candidate: int) -> bytes:
        """SHA-256 that tells a candidate from others: of large ones, over what they are made of."""
        return self._hashed(candidate, of_tensors.identity)

    def checksum(self, candidate: int) -> bytes:
        """SHA-256 over one candidate's exact bytes."""
        return self._hashed(candidate, of_tensors.content)

    def _hashed(self, candidate: int, what: Callable[[Tensors, int], Iterator[bytes]]) -> bytes:
        state = hashlib.sha256(self.kind.encode())
        for each in what(self.tensors, candidate):
            state.update(each)
        if self.token_ids:
            state.update(f"tokens{self.token_ids}".encode())
        for part in self.beside:
            state.update(part._hashed(candidate, what))
        return state.digest()


class EmbeddingTable(Protocol):
    """Read access to the input embeddings, for deltas that live among them."""

    @property
    def vocabulary_size(self) -> int:
        """Number of rows."""
        ...

    @property
    def hidden_size(self) -> int:
        """Length of a row."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation over all entries of the table."""
        ...

    @property
    def opening(self) -> list[int]:
        """Tokens that the tokenizer puts before every text, soft slots included; often none."""
        ...

    def rows(self, token_ids: Sequence[int]) -> FloatArray:
        """Embeddings of shape (len(token_ids), hidden)."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` without special tokens."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of tokens inside a sequence; special tokens stand for none."""
        ...


class Delta(Protocol):
    """What is tuned: how a flat vector θ of size D becomes tensors that a backend applies."""

    @property
    def kind(self) -> str:
        """The name backends and artifacts know it by."""
        ...

    @property
    def size(self) -> int:
        """D, the length of θ."""
        ...

    @property
    def groups(self) -> tuple[int, ...]:
        """Lengths of θ's consecutive groups, by where they act (layers, say); add up to D."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the tensors that θ holds one after the other, row by row; sizes add up to D."""
        ...

    @property
    def origin(self) -> FloatArray:
        """p0 of shape (D,): the delta at z = 0."""
        ...

    @property
    def scale(self) -> float:
        """The natural standard deviation of an entry of θ - p0."""
        ...

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to tensors with a leading λ."""
        ...

    def config(self) -> Json:
        """What rebuilds it, beside the embedding table; ready for JSON."""
        ...


@runtime_checkable
class DividedDelta(Protocol):
    """A delta whose p0 is zero and whose scale is one, and whose tensors each have a part of θ."""

    @property
    def size(self) -> int:
        """D, the length of θ."""
        ...

    def deferred(self, theta: Theta) -> DeltaBatch:
        """What ``unpack`` makes of θ, its tensors made when they are read."""
        ...


def is_deferred(delta: Delta) -> TypeGuard[DividedDelta]:
    """Whether a delta is so large that θ is never whole in memory."""
    return isinstance(delta, DividedDelta) and delta.size > of_tensors.MOST_WHOLE


# ------------------------------------------------------------------------ scoring


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

    def select(self, rows: Sequence[int] | slice | IntArray) -> Evidence:
        """The given examples, in the given order."""
        return Evidence(self.label_logprobs[rows], self.top_ids[rows], self.top_logprobs[rows])

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """The examples of all parts, one part after the other."""
        names = ("label_logprobs", "top_ids", "top_logprobs")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


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
    """

    deltas: frozenset[str]
    decoder_slot: bool
    text_after_answer: bool
    max_top_k: int
    chat: bool = False
    exact_tokens: bool = True
    output_tokens: int = 0
    assigns: bool = False


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
        """Identifies the weights and tokenizer, whatever the precision or the machine."""
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


@runtime_checkable
class OpenModel(Protocol):
    """What a backend can do beside replying whose model's weights are at hand; for exports."""

    def keys_and_values(self, token_ids: Sequence[int]) -> FloatArray:
        """What attention keeps of words that everything else follows, in every layer.

        Args:
            token_ids: The words' tokens, at least one.

        Returns:
            Shape (layers, 2, kv_heads, tokens, head_size), keys before values, positions applied.

        Raises:
            UnsupportedError: They cannot be told.
        """
        ...

    def save_merged(self, delta: DeltaBatch, folder: Path) -> None:
        """Writes the model with a delta merged into its weights; the open model stays as it is.

        Args:
            delta: One candidate.
            folder: A folder that is there; it gets weights, configuration and tokenizer.

        Raises:
            ExportError: A kind of delta, or what it acts on, has no weights to be merged into, or
                the model cannot be written.
        """
        ...


# ----------------------------------------------------------------- search and heads


class Optimizer(Protocol):
    """Ask/tell over z in R^d, minimising. Holds its own random generator."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    @property
    def population(self) -> int:
        """λ, the number of candidates it likes to be asked for."""
        ...

    @property
    def mean(self) -> Vector:
        """(d,), the optimizer's own estimate of the optimum (a distribution's mean, say)."""
        ...

    def ask(self, count: int) -> Vector:
        """``count`` new candidates of shape (count, d)."""
        ...

    def tell(self, z: Vector, losses: Vector) -> None:
        """Losses of shape (λ,) for the candidates last asked, lower is better."""
        ...


class FittedHead(Protocol):
    """A head with its parameters: turns evidence into class probabilities."""

    @property
    def kind(self) -> str:
        """The name of the head it came from."""
        ...

    @property
    def top_k(self) -> int:
        """How many top tokens it needs with each reply."""
        ...

    def log_proba(self, evidence: Evidence) -> Vector:
        """Log class probabilities of shape (n, c)."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """The parameters as arrays, enough to rebuild it."""
        ...


class Head(Protocol):
    """The output side: how evidence on labelled examples becomes a classifier."""

    @property
    def kind(self) -> str:
        """The name it is chosen by."""
        ...

    @property
    def top_k(self) -> int:
        """How many top tokens it wants with each reply; 0 for none."""
        ...

    def references(self, words: Sequence[str]) -> tuple[str, ...]:
        """Texts to be scored beside the training examples, often none; may hold the label words."""
        ...

    def fit(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> FittedHead:
        """Fits on n labelled examples; ``reference`` is the evidence of ``references``."""
        ...

    def held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        """Log class probabilities (n, c), each example's from a fit that never saw its label."""
        ...
