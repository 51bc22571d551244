"""From rendered prompts to what goes over the wire: words, or sequences of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from blackbox_delta.backends.prompt_encoder import PromptEncoder
from blackbox_delta.backends.remote.embeddings.table import TableFile
from blackbox_delta.backends.remote.embeddings.torch_file import embeds_field
from blackbox_delta.backends.remote.wires.wire import Form, Input
from blackbox_delta.errors import UnsupportedError
from blackbox_delta.types import (
    AnswerSlot,
    DecoderStart,
    FloatArray,
    Prompt,
    ScoreRequest,
    SoftSlot,
    Words,
)

#: Room for the answer at the end of the context.
_ANSWER_TOKENS = 1
#: Where the model's context is not known.
_ENDLESS = 1 << 30
_MOST_KEPT = 50_000


class Inputs(Protocol):
    """How prompts go out."""

    form: Form

    def count(self, request: ScoreRequest, prompt: int) -> int:
        """Prompt tokens of one prompt, soft tokens included; maybe an estimate."""
        ...

    def input(self, request: ScoreRequest, candidate: int, prompt: int) -> Input:
        """What is sent for one pair."""
        ...


class TextInputs:
    """Prompts as words; how many tokens they are is estimated from their bytes.

    Args:
        tokens_per_byte: Prompt tokens for a byte.
        overhead: Prompt tokens that every request has beside its text.
    """

    form: Form = "text"

    def __init__(self, tokens_per_byte: float, overhead: float) -> None:
        self._tokens_per_byte, self._overhead = tokens_per_byte, overhead

    def count(self, request: ScoreRequest, prompt: int) -> int:
        """An estimate."""
        size = len(words_before_answer(request.prompts[prompt]).encode())
        return max(1, round(size * self._tokens_per_byte + self._overhead))

    def input(self, request: ScoreRequest, candidate: int, prompt: int) -> Input:
        """The words before the answer."""
        del candidate
        return words_before_answer(request.prompts[prompt])


class IdInputs:
    """Prompts as token ids, long texts cut.

    Args:
        encoder: The model's tokenizer.
    """

    form: Form = "ids"

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder

    def count(self, request: ScoreRequest, prompt: int) -> int:
        """Exact."""
        return len(self._ids(request.prompts[prompt]))

    def input(self, request: ScoreRequest, candidate: int, prompt: int) -> Input:
        """The ids of the words before the answer."""
        del candidate
        return self._ids(request.prompts[prompt])

    def _ids(self, prompt: Prompt) -> list[int]:
        pieces = self._encoder.encode(prompt, {}, _ANSWER_TOKENS).before
        return [token for piece in pieces if not isinstance(piece, SoftSlot) for token in piece]


class EmbeddedInputs:
    """Prompts as sequences of embeddings: the words' from the table, the soft tokens as they are.

    Args:
        table: The model's embedding table and tokenizer.
        max_length: Its context in tokens; ``None`` where it is not known.
        rows: Whether embeddings go out as lists of numbers instead of a torch file.
    """

    form: Form = "embeds"

    def __init__(self, table: TableFile, max_length: int | None, *, rows: bool = False) -> None:
        self._table, self._rows = table, rows
        self._encoder = PromptEncoder(table.tokenizer, "causal", max_length or _ENDLESS)
        self._kept: dict[tuple[Prompt, tuple[tuple[str, int], ...]], list[FloatArray | str]] = {}

    def count(self, request: ScoreRequest, prompt: int) -> int:
        """The length of the sequence."""
        slots = {} if request.delta is None else request.delta.slots
        pieces = self._pieces(request.prompts[prompt], slots)
        return sum(slots[piece] if isinstance(piece, str) else len(piece) for piece in pieces)

    def input(self, request: ScoreRequest, candidate: int, prompt: int) -> Input:
        """The whole sequence, in the precision that the table is stored in."""
        sequence = self.sequence(request, candidate, prompt)
        return sequence.tolist() if self._rows else embeds_field(sequence, self._table.dtype)

    def sequence(self, request: ScoreRequest, candidate: int, prompt: int) -> FloatArray:
        """Embeddings (tokens, hidden) of all that precedes the answer."""
        tensors: Mapping[str, FloatArray] = {} if request.delta is None else request.delta.tensors
        slots = {} if request.delta is None else request.delta.slots
        pieces = [
            tensors[piece][candidate] if isinstance(piece, str) else piece
            for piece in self._pieces(request.prompts[prompt], slots)
        ]
        return np.concatenate(pieces)

    def _pieces(self, prompt: Prompt, slots: Mapping[str, int]) -> list[FloatArray | str]:
        """Embeddings (tokens, hidden) and names of soft slots in reading order; kept."""
        key = (prompt, tuple(sorted(slots.items())))
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = [
                piece.name if isinstance(piece, SoftSlot) else self._table.rows(piece)
                for piece in self._encoder.encode(prompt, dict(slots), _ANSWER_TOKENS).pieces
                if not isinstance(piece, SoftSlot) or piece.name in slots
            ]
        return self._kept[key]


def words_before_answer(prompt: Prompt) -> str:
    """What the model reads before it answers; soft slots stay empty.

    Raises:
        UnsupportedError: The prompt has a part for a decoder, or nothing precedes the answer.
    """
    if DecoderStart() in prompt.segments:
        raise UnsupportedError(
            "the template has a {decoder} part, which servers do not take; leave {decoder} out"
        )
    before = prompt.segments[: prompt.segments.index(AnswerSlot())]
    words = "".join(segment.text for segment in before if isinstance(segment, Words))
    if not words:
        raise UnsupportedError("nothing precedes the answer: put {text} before {label}")
    return words
