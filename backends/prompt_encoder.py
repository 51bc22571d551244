"""From rendered prompts to token ids: where each piece sits, and how long texts are cut.

Pieces stay separate where a soft slot parts them, so that the same ids are read whatever the
candidate. Only the user's own text is ever cut, never a word of the template.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from blackbox_delta.errors import ModelError, TemplateError, UnsupportedError, VerbalizerError
from blackbox_delta.types import AnswerSlot, DecoderStart, Prompt, SoftSlot, Words

Ids: TypeAlias = tuple[int, ...]
Piece: TypeAlias = Ids | SoftSlot


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as pieces of token ids and soft slots.

    Attributes:
        encoder: What a sequence-to-sequence model's encoder reads; empty for other models.
        before: What precedes the answer (in the decoder, for sequence-to-sequence models).
        after: What follows the answer; only masked models read it.
    """

    encoder: tuple[Piece, ...]
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Everything in reading order."""
        return self.encoder + self.before + self.after

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about, with the text that it was made of."""
        return 1024 + 32 * length(self.pieces, {})


def length(pieces: Sequence[Piece], slots: dict[str, int]) -> int:
    """Number of tokens of ``pieces`` when each soft slot has the given length."""
    return sum(
        slots.get(piece.name, 0) if isinstance(piece, SoftSlot) else len(piece) for piece in pieces
    )


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """What each text keeps of its length so that all fit: the longest are cut to a common level."""
    kept = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for place, index in enumerate(order):
        kept[index] = max(0, min(lengths[index], room // (len(order) - place)))
        room -= kept[index]
    return kept


class PromptEncoder:
    """Turns prompts and choices into token ids for one kind of model.

    Args:
        tokenizer: A Hugging Face tokenizer, or what answers the same calls.
        kind: ``"causal"``, ``"masked"`` or ``"seq2seq"``.
        max_length: Longest sequence that the model takes, in tokens.
        decoder_start: First decoder token (sequence-to-sequence models).
        vocabulary: Tokens that the model knows, where that is known.
    """

    def __init__(
        self,
        tokenizer: Any,
        kind: str,
        max_length: int,
        decoder_start: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._kind = kind
        self.max_length = max_length
        self._decoder_start = decoder_start
        self._vocabulary = vocabulary
        self._start, self._end = self._special_tokens()

    @property
    def opening(self) -> list[int]:
        """Special tokens that stand before every text; often none."""
        return list(self._start)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text that opens a sequence, without special tokens.

        Raises:
            ModelError: There is a token among them that the model does not know.
        """
        # verbose=False: no warning about texts longer than the context, which are cut later.
        ids = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if self._vocabulary is not None and (highest := max(ids, default=0)) >= self._vocabulary:
            raise ModelError(
                f"the tokenizer makes {self._tokenizer.decode([highest])!r} token {highest}, and "
                f"the model's embeddings end at {self._vocabulary - 1}; take the model's own "
                "tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
            )
        return ids

    def continuation(self, text: str) -> list[int]:
        """Token ids of ``text`` in the middle of a sequence.

        Some tokenizers put a space before whatever opens a text. Tokenizing behind an anchor
        and taking the anchor off again gives what the text becomes inside a sentence.
        """
        anchor = "a" if text.startswith(" ") else "\n"
        anchored, alone = self.tokenize(anchor + text), self.tokenize(anchor)
        if anchored[: len(alone)] == alone:
            return anchored[len(alone) :]
        return self.tokenize(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids in the middle of a sequence; special tokens stand for none.

        Some tokenizers drop the space that opens a text, so it is read behind an anchor too.
        """
        anchor = self.tokenize("a")
        alone, whole = (
            self._tokenizer.decode(
                some, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for some in (anchor, [*anchor, *map(int, ids)])
        )
        return str(whole[len(alone) :])

    def choices(self, choices: Sequence[str]) -> list[Ids]:
        """Token ids of each label word.

        Raises:
            VerbalizerError: There is none, one has no tokens, or two have the same ones.
        """
        if not choices:
            raise VerbalizerError("nothing is asked about: give at least one label word")
        encoded = [tuple(self.continuation(choice)) for choice in choices]
        for choice, ids in zip(choices, encoded, strict=True):
            if not ids:
                raise VerbalizerError(f"the label word {choice!r} has no tokens; choose another")
        if len(set(encoded)) < len(encoded):
            first = next(ids for ids in encoded if encoded.count(ids) > 1)
            same = [c for c, ids in zip(choices, encoded, strict=True) if ids == first]
            raise VerbalizerError(
                f"the model's tokenizer cannot tell the label words {same} apart; choose others"
            )
        return encoded

    def encode(self, prompt: Prompt, slots: dict[str, int], answer_tokens: int) -> EncodedPrompt:
        """Token ids of ``prompt``, its long texts cut so that the answer still fits.

        Args:
            prompt: The rendered template.
            slots: Length of each soft slot.
            answer_tokens: Room that the longest choice needs.

        Raises:
            TemplateError: The template alone is longer than the model's context.
            UnsupportedError: The template has a ``{decoder}`` part and the model no decoder,
                or nothing precedes the answer.
        """
        segments = list(prompt.segments)
        while True:
            encoded = self._encode(tuple(segments))
            excess = {
                "encoder": length(encoded.encoder, slots) - self.max_length,
                "answer": length(encoded.before + encoded.after, slots)
                + answer_tokens
                - self.max_length,
            }
            if max(excess.values()) <= 0:
                self._check(encoded, slots)
                return encoded
            for part, places in self._places(segments).items():
                if excess[part] > 0:
                    self._cut(segments, places, excess[part])

    def _encode(self, segments: tuple[Any, ...]) -> EncodedPrompt:
        parts: dict[str, list[Piece]] = {"encoder": [], "before": [], "after": []}
        has_decoder_part = DecoderStart() in segments
        if has_decoder_part and self._kind != "seq2seq":
            raise UnsupportedError(
                "the template has a {decoder} part, which only sequence-to-sequence models read; "
                f"this model is {self._kind}"
            )
        part = "encoder" if self._kind == "seq2seq" else "before"
        parts[part] += [self._start] if self._start else []
        words = ""
        for segment in (*segments, None):
            if isinstance(segment, Words):
                words += segment.text
                continue
            self._flush(parts[part], words)
            words = ""
            if isinstance(segment, SoftSlot):
                parts[part].append(segment)
            elif isinstance(segment, DecoderStart):
                part = self._enter_decoder(parts)
            elif isinstance(segment, AnswerSlot):
                if self._kind == "seq2seq" and part == "encoder":
                    part = self._enter_decoder(parts)
                part = "after"
        if self._kind != "masked":
            parts["after"] = []
        elif self._end:
            parts["after"].append(self._end)
        return EncodedPrompt(*(tuple(parts[name]) for name in ("encoder", "before", "after")))

    def _enter_decoder(self, parts: dict[str, list[Piece]]) -> str:
        if self._end:
            parts["encoder"].append(self._end)
        if self._decoder_start is not None:
            parts["before"].append((self._decoder_start,))
        return "before"

    def _flush(self, pieces: list[Piece], words: str) -> None:
        if not words:
            return
        opens = pieces in ([], [self._start], [(self._decoder_start,)])
        ids = self.tokenize(words) if opens else self.continuation(words)
        if ids:
            pieces.append(tuple(ids))

    def _places(self, segments: list[Any]) -> dict[str, range]:
        """Which segments go to the encoder, and which stand around the answer."""
        answer = segments.index(AnswerSlot())
        end = len(segments) if self._kind == "masked" else answer
        start = 0
        if self._kind == "seq2seq":
            parted = DecoderStart() in segments
            start = segments.index(DecoderStart()) if parted else answer
        return {"encoder": range(start), "answer": range(start, end)}

    def _cut(self, segments: list[Any], places: range, excess: int) -> None:
        """Takes ``excess`` tokens off the ends of the longest texts among ``places``."""
        texts = {
            place: ids
            for place in places
            if isinstance(segments[place], Words)
            and segments[place].truncatable
            and (ids := self.tokenize(segments[place].text))
        }
        if not texts:
            raise TemplateError(
                f"the template, with its soft prompt or prefix, is {excess} tokens longer than the "
                f"model's context of {self.max_length}; shorten them"
            )
        room = sum(map(len, texts.values())) - excess
        kept = fair_shares([len(ids) for ids in texts.values()], room)
        for (place, ids), keep in zip(texts.items(), kept, strict=True):
            if keep < len(ids):
                text = self._first_tokens(segments[place].text, keep)
                segments[place] = Words(text, truncatable=True)

    def _first_tokens(self, text: str, keep: int) -> str:
        if keep == 0:
            return ""
        if self._tokenizer.is_fast:
            offsets = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            end = offsets[keep - 1][1]
        else:
            # The most characters that are no more tokens; what is decoded may have other ones.
            ends = range(len(text))
            end = bisect_right(ends, keep, key=lambda end: len(self.tokenize(text[:end]))) - 1
        # At least one character goes, so that cutting comes to an end whatever the tokenizer.
        return text[: min(end, len(text) - 1)]

    def _check(self, encoded: EncodedPrompt, slots: dict[str, int]) -> None:
        if self._kind != "masked" and length(encoded.before, slots) == 0:
            raise UnsupportedError(
                f"nothing precedes the answer: a {self._kind} model needs at least one token "
                "before {label}"
            )

    def _special_tokens(self) -> tuple[Ids, Ids]:
        """What the tokenizer itself puts before and after a single text."""
        bare = self.tokenize("a")
        full: list[int] = list(self._tokenizer("a")["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                end = tuple(full[start + len(bare) :])
                return tuple(full[:start]), () if self._kind == "causal" else end
        return (), ()
