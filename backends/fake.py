"""A toy language model: deterministic, instant, in numpy alone. For tests and examples.

It knows some 170 words, each near the axis of its topic in a space of 16 dimensions. The words
of a text add up to a vector h; a soft prompt with tokens s_1 … s_T to a vector m = Σ s_i / √T.
The logits at the answer are, over the vocabulary's embeddings E,

    E (exp(1.2 tanh(w·m)) h + P h + 0.5 Q m) + b

Two things are planted for a search to find. Along the direction w the text's true topic grows
louder than the distractor P h, which mixes the topics up. And 0.5 Q m can undo the prior bias b,
which calibration on the output side can undo as well. P and Q are signed permutations.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping

import numpy as np

from blackbox_delta.backends._assigned import check_assignment
from blackbox_delta.backends._fake_words import (
    HIDDEN,
    NEUTRAL,
    TOPICS,
    FakeEmbeddings,
    normals,
    signed_permutation,
)
from blackbox_delta.errors import BackendError, ModelError, UnsupportedError
from blackbox_delta.types import (
    SOFT_PROMPT,
    AnswerSlot,
    Capabilities,
    DecoderStart,
    EmbeddingTable,
    FloatArray,
    IntArray,
    Json,
    Prompt,
    ScoreRequest,
    Scores,
    Sink,
    SoftSlot,
    Usage,
    Vector,
    Words,
)

_MAX_TOP_K = 100


class FakeBackend:
    """The toy model behind the contract of :class:`blackbox_delta.types.Backend`.

    Args:
        name: ``"fake"``, or ``"fake:NAME"`` for a model with other weights.
        accepts: Kinds of delta that it takes: ``{"soft-prompt"}``, or none for text only.
        fail_at: Numbers of the calls to :meth:`score` that raise ``BackendError``; the first is 1.
        nan_at: Numbers of the calls that break the contract and answer NaN.
        delay: Seconds that every call takes at least.

    Attributes:
        calls: Calls to :meth:`score` so far.
        queries: Example-forwards of those that were answered.

    Raises:
        ModelError: The name does not start with ``fake``.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        accepts: Collection[str] = frozenset({"soft-prompt"}),
        fail_at: Collection[int] = (),
        nan_at: Collection[int] = (),
        delay: float = 0.0,
    ) -> None:
        if name != "fake" and not name.startswith("fake:"):
            raise ModelError(f"'{name}' names no fake model; write 'fake' or 'fake:NAME'")
        self._name = name
        self._accepts = frozenset(accepts)
        self._fail_at, self._nan_at, self._delay = frozenset(fail_at), frozenset(nan_at), delay
        self._embeddings = FakeEmbeddings(name)
        self._bias = 1.5 * normals(f"{name}/bias", self._embeddings.vocabulary_size)
        self._distractor = signed_permutation(f"{name}/distractor")
        self._correction = 0.5 * signed_permutation(f"{name}/correction")
        self._gain = normals(f"{name}/gain", HIDDEN)
        self._texts: dict[Prompt, tuple[Vector, int]] = {}
        self.calls = 0
        self.queries = 0

    @property
    def name(self) -> str:
        """The name it was made with."""
        return self._name

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines a reply."""
        return {"backend": "fake", "weights": self.fingerprint, "dtype": "float64"}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all weights and words, the same on every machine."""
        state = hashlib.sha256(" ".join((*TOPICS, NEUTRAL)).encode())
        weights = (self._bias, self._distractor, self._correction, self._gain)
        for weight in (self._embeddings.table, *weights):
            state.update(weight.astype("<f4").tobytes())
        return state.hexdigest()

    @property
    def capabilities(self) -> Capabilities:
        """Text and, unless made otherwise, soft prompts; nothing after the answer is read."""
        return Capabilities(self._accepts, False, False, _MAX_TOP_K, assigns=True)

    @property
    def embedding_table(self) -> EmbeddingTable | None:
        """The input embeddings; ``None`` for a model that takes text only."""
        return self._embeddings if self._accepts else None

    @property
    def planted_direction(self) -> FloatArray:
        """Unit vector (16,): a soft prompt that moves along it helps the true topic."""
        return (self._gain / np.linalg.norm(self._gain)).astype(np.float32)

    @property
    def geometry(self) -> None:
        """Nothing inside it can be reached."""

    @property
    def address(self) -> Json:
        """Nothing: the name says it all."""
        return {}

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """Scores of shape (λ, n, c).

        Raises:
            UnsupportedError: The request asks for something outside ``capabilities``.
            BackendError: The number of this call is in ``fail_at``.
        """
        del sink  # the whole reply comes at once
        start = time.perf_counter()
        self._check(request)
        self.calls += 1
        if self._delay:
            time.sleep(self._delay)
        if self.calls in self._fail_at:
            raise BackendError(f"the fake model was told to fail at call {self.calls}")
        labels, top_ids, top = self._answer(request)
        if self.calls in self._nan_at:
            labels = np.full_like(labels, np.nan)
        self.queries += request.queries
        tokens = int(self.count_tokens(request).sum()) * request.candidates
        usage = Usage(request.queries, tokens, tokens, time.perf_counter() - start)
        return Scores(labels, top_ids, top, usage)

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens of shape (n,): a start token, the words before the answer, soft tokens."""
        soft = {} if request.delta is None else request.delta.tensors
        counts = [
            1 + self._read(prompt)[1] + sum(soft[name].shape[1] for name in _slots(prompt, soft))
            for prompt in request.prompts
        ]
        return np.array(counts, dtype=np.int64)

    def close(self) -> None:
        """Nothing to release."""

    def _check(self, request: ScoreRequest) -> None:
        check_assignment(request, "the fake model")
        if request.top_k > _MAX_TOP_K:
            raise UnsupportedError(f"top_k {request.top_k} is more than {_MAX_TOP_K}")
        for choice in request.choices:
            if not self._embeddings.tokenize(choice):
                raise UnsupportedError(f"the choice {choice!r} holds no word")
        if any(DecoderStart() in prompt.segments for prompt in request.prompts):
            raise UnsupportedError("the fake model has no decoder side")
        if request.delta is None:
            return
        if not self._accepts.intersection([SOFT_PROMPT]).issuperset(request.delta.kinds):
            kinds = "+".join(request.delta.kinds)
            raise UnsupportedError(f"the fake model takes no '{kinds}' delta")
        for name, tensor in request.delta.tensors.items():
            if tensor.ndim != 3 or tensor.shape[2] != HIDDEN:
                expected = f"(λ, tokens, {HIDDEN})"
                raise UnsupportedError(f"slot '{name}' has shape {tensor.shape}, not {expected}")

    def _answer(self, request: ScoreRequest) -> tuple[FloatArray, IntArray, FloatArray]:
        state = self._state(request)
        first = self._log_probs(state)
        labels = np.zeros((*state.shape[:2], len(request.choices)))
        for column, choice in enumerate(request.choices):
            start, *others = self._embeddings.tokenize(choice)
            labels[:, :, column] = first[:, :, start]
            for token in others:
                # What the answer says already moves what it says next.
                state_after = state + self._embeddings.table[start]
                labels[:, :, column] += self._log_probs(state_after)[:, :, token]
                start = token
        ids = np.argsort(-first, axis=-1) if request.top_k else np.zeros((*state.shape[:2], 0), int)
        ids = ids[:, :, : request.top_k]
        top = np.take_along_axis(first, ids, axis=-1)
        return labels.astype(np.float32), ids.astype(np.int64), top.astype(np.float32)

    def _state(self, request: ScoreRequest) -> Vector:
        """The vector (λ, n, 16) that the embeddings are multiplied with."""
        text = np.array([self._read(prompt)[0] for prompt in request.prompts]).reshape(-1, HIDDEN)
        soft = self._soft(request)
        gain = np.exp(1.2 * np.tanh(soft @ self._gain))[:, :, None]
        state = np.asarray(gain * text + text @ self._distractor + soft @ self._correction)
        if request.assignment is None:
            return state
        return state[list(request.assignment), np.arange(len(text))][None]

    def _soft(self, request: ScoreRequest) -> Vector:
        """The vectors m, (λ, n, 16); zero where a prompt holds no soft token."""
        count = 1 if request.delta is None else len(request.delta)
        total = np.zeros((count, len(request.prompts), HIDDEN))
        if request.delta is None:
            return total
        tensors = request.delta.tensors
        sums = {name: value.sum(axis=1, dtype=np.float64) for name, value in tensors.items()}
        for column, prompt in enumerate(request.prompts):
            slots = _slots(prompt, tensors)
            length = sum(tensors[name].shape[1] for name in slots)
            for name in slots:
                total[:, column] += sums[name] / np.sqrt(max(length, 1))
        return total

    def _log_probs(self, state: Vector) -> Vector:
        logits = state @ self._embeddings.table.T.astype(np.float64) + self._bias
        return np.asarray(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))

    def _read(self, prompt: Prompt) -> tuple[Vector, int]:
        """The vector h, (16,), and the number of words before the answer; read once."""
        if prompt not in self._texts:
            before = prompt.segments[: prompt.segments.index(AnswerSlot())]
            text = " ".join(segment.text for segment in before if isinstance(segment, Words))
            tokens = self._embeddings.tokenize(text)
            # Words weigh less the further they stand from the answer, so their order matters.
            weights = 0.98 ** np.arange(len(tokens))[::-1]
            h = weights @ self._embeddings.rows(tokens).astype(np.float64)
            self._texts[prompt] = (h / np.sqrt(max(1, len(tokens)) / 4), len(tokens))
        return self._texts[prompt]


def _slots(prompt: Prompt, tensors: Mapping[str, FloatArray]) -> list[str]:
    """Names of the soft slots before the answer that the delta fills."""
    before = prompt.segments[: prompt.segments.index(AnswerSlot())]
    names = [segment.name for segment in before if isinstance(segment, SoftSlot)]
    return [name for name in names if name in tensors]
