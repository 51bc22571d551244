"""Soft prompts: embeddings that stand where tokens would (Lester et al., 2021, 2104.08691).

They start at p0, the embeddings of real tokens or zero, and are searched around it as in
Black-Box Tuning (Sun et al., 2022, 2201.03514).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from blackbox_delta.deltas.peft import PROMPT, PeftAdapter
from blackbox_delta.deltas.shapes import check_theta
from blackbox_delta.errors import ConfigError
from blackbox_delta.types import DeltaBatch, EmbeddingTable, FloatArray, Json

ALPHA = 1.0
"""α: the deviation of an entry of θ − p0, in standard deviations of the embedding table."""

TEXT = "text:"


@dataclass(frozen=True, slots=True)
class SlotStart:
    """One slot and what it starts from.

    Attributes:
        name: The slot's name in the template.
        length: How many soft tokens it takes.
        token_ids: The tokens whose embeddings it starts from; ``None`` starts from zero.
    """

    name: str
    length: int
    token_ids: tuple[int, ...] | None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(
                f"The soft slot '{self.name}' needs at least 1 token, not {self.length}."
            )
        if self.token_ids is not None and len(self.token_ids) != self.length:
            raise ConfigError(
                f"The soft slot '{self.name}' has {self.length} tokens but starts from "
                f"{len(self.token_ids)}."
            )

    def embeddings(self, table: EmbeddingTable) -> FloatArray:
        """p0 of this slot, of shape (length, hidden)."""
        if self.token_ids is None:
            return np.zeros((self.length, table.hidden_size), dtype=np.float32)
        if max(self.token_ids) >= table.vocabulary_size or min(self.token_ids) < 0:
            raise ConfigError(
                f"The soft slot '{self.name}' starts from a token id that the model, with a "
                f"vocabulary of {table.vocabulary_size}, does not have."
            )
        return np.asarray(table.rows(self.token_ids), dtype=np.float32)


class SoftPrompt:
    """Soft tokens for one or more slots of a template.

    θ holds the slots in order, each as length × hidden numbers, token by token.

    Args:
        starts: The slots in order, names not repeated.
        table: The model's input embeddings.
        scale: The natural standard deviation of an entry of θ − p0.

    Raises:
        ConfigError: There is no slot, or a slot cannot start as it should.
    """

    kind = "soft-prompt"

    def __init__(self, starts: Sequence[SlotStart], table: EmbeddingTable, scale: float) -> None:
        if not starts:
            raise ConfigError(
                "The template has no {soft} slot for the soft prompt. Write {soft} where it "
                "should stand, e.g. '{text} {soft} It was {label}'."
            )
        if len({start.name for start in starts}) != len(starts):
            raise ConfigError("Two soft slots have the same name.")
        self._starts = tuple(starts)
        self._hidden = table.hidden_size
        self.scale = scale
        self.origin: FloatArray = np.concatenate(
            [start.embeddings(table).reshape(-1) for start in starts]
        )
        self.origin.flags.writeable = False

    @classmethod
    def build(
        cls,
        slots: Mapping[str, int | None],
        table: EmbeddingTable,
        *,
        tokens: int,
        init: str | None,
        rng: np.random.Generator,
    ) -> SoftPrompt:
        """A soft prompt for the slots of a template.

        Args:
            slots: Slot name to length; ``None`` where the template leaves it open.
            table: The model's input embeddings.
            tokens: The length of slots that leave it open, except with an initial text.
            init: ``"random"`` or ``None``: random rows of the table, as in Black-Box Tuning.
                ``"zero"``: zeros. ``"text:WORDS"``: the tokens of WORDS in every slot, cut or
                repeated to a slot's length; a slot that leaves it open takes them all. Several of
                these with ``|`` between them: one for each slot (P-tuning, Liu et al., 2021,
                arXiv 2103.10385).
            rng: Draws the random rows.

        Raises:
            ConfigError: There is no slot, a length is below 1, ``init`` is unknown or of another
                number of slots, or its text has no tokens.
        """
        if tokens < 1:
            raise ConfigError(f"A soft prompt needs at least 1 token, not {tokens}.")
        starts = []
        for (name, given), own in zip(slots.items(), one_each(init, len(slots)), strict=True):
            ids = _text_ids(own, table)
            length = (len(ids) if ids else tokens) if given is None else given
            starts.append(SlotStart(name, length, _first_ids(own, ids, length, table, rng)))
        return cls(starts, table, ALPHA * table.std)

    @property
    def size(self) -> int:
        """D = Σ length·hidden over the slots."""
        return self.origin.size

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers in each slot."""
        return tuple(start.length * self._hidden for start in self._starts)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(length, hidden) of each slot."""
        return tuple((start.length, self._hidden) for start in self._starts)

    @property
    def slots(self) -> dict[str, int]:
        """Slot name to number of soft tokens, in order."""
        return {start.name: start.length for start in self._starts}

    def unpack(self, theta: FloatArray) -> DeltaBatch:
        """θ of shape (λ, D) to one tensor (λ, length, hidden) for each slot.

        Raises:
            ConfigError: θ has another shape.
        """
        check_theta(theta, self.size, "soft prompt")
        ends = np.cumsum(self.groups)
        parts = np.split(theta.astype(np.float32, copy=False), ends[:-1], axis=1)
        tensors = {
            start.name: part.reshape(len(theta), start.length, self._hidden)
            for start, part in zip(self._starts, parts, strict=True)
        }
        return DeltaBatch(self.kind, tensors)

    def peft(
        self, tensors: Mapping[str, FloatArray], opening: FloatArray, task: str
    ) -> PeftAdapter:
        """One candidate's tensors as PEFT's prompt tuning, which puts them before everything.

        Args:
            tensors: Of its only slot, (length, hidden).
            opening: Embeddings (o, hidden) of the special tokens that stand before the slot; they
                become part of the prompt.
            task: What PEFT calls the kind of model, ``"CAUSAL_LM"`` or ``"SEQ_2_SEQ_LM"``.
        """
        [prompt] = tensors.values()
        whole = np.concatenate([opening, prompt]).astype(np.float32)
        config = {
            "peft_type": "PROMPT_TUNING",
            "task_type": task,
            "num_virtual_tokens": len(whole),
            "token_dim": whole.shape[1],
            # Of a model with two sides, the encoder alone reads it.
            "num_transformer_submodules": 1,
            # Which say nothing here, but PEFT looks for them in models that do not tell.
            "num_layers": 1,
            "num_attention_heads": 1,
        }
        return PeftAdapter(config, {PROMPT: whole})

    def config(self) -> Json:
        """What :meth:`from_config` needs beside the embedding table, ready for JSON."""
        slots = [
            {
                "name": start.name,
                "length": start.length,
                "start": "zero" if start.token_ids is None else list(start.token_ids),
            }
            for start in self._starts
        ]
        return {"kind": self.kind, "hidden": self._hidden, "scale": self.scale, "slots": slots}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], table: EmbeddingTable) -> SoftPrompt:
        """The same soft prompt again, p0 and scale included.

        Raises:
            ConfigError: The settings are not those of a soft prompt, or the table has rows of
                another length.
        """
        try:
            hidden, scale = int(config["hidden"]), float(config["scale"])
            starts = [_slot_start(slot) for slot in config["slots"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"The settings of the soft prompt are incomplete or of another version: {error!r}."
            ) from error
        if hidden != table.hidden_size:
            raise ConfigError(
                f"The soft prompt was made for embeddings of length {hidden}; this model has "
                f"{table.hidden_size}."
            )
        return cls(starts, table, scale)


def one_each(init: str | None, slots: int) -> list[str | None]:
    """What each slot starts from.

    Args:
        init: For all of them, or one for each with ``|`` between them.
        slots: How many there are.

    Raises:
        ConfigError: There are others than slots.
    """
    if init is None or slots < 2 or "|" not in init:
        return [init] * slots
    parts = [part.strip() for part in init.split("|")]
    if len(parts) != slots:
        raise ConfigError(f"'{init}' is for {len(parts)} soft slots, but the template has {slots}")
    return list(parts)


def _slot_start(slot: Mapping[str, Any]) -> SlotStart:
    start = slot["start"]
    ids = None if start == "zero" else tuple(int(token) for token in start)
    return SlotStart(str(slot["name"]), int(slot["length"]), ids)


def _text_ids(init: str | None, table: EmbeddingTable) -> list[int]:
    """The tokens of an initial text; none for the other ways to start."""
    if init in (None, "random", "zero"):
        return []
    if init is None or not init.startswith(TEXT):
        raise ConfigError(
            f"A soft prompt cannot start from '{init}'. Choose 'random', 'zero' or 'text:WORDS'."
        )
    ids = table.tokenize(init.removeprefix(TEXT))
    if not ids:
        raise ConfigError(
            f"The initial text of the soft prompt ('{init}') has no tokens. "
            "Write some words after 'text:', or choose 'random' or 'zero'."
        )
    return ids


def _first_ids(
    init: str | None,
    ids: list[int],
    length: int,
    table: EmbeddingTable,
    rng: np.random.Generator,
) -> tuple[int, ...] | None:
    if init == "zero":
        return None
    if ids:
        return tuple(islice(cycle(ids), max(length, 0)))  # as PEFT cuts and repeats them
    return tuple(rng.integers(table.vocabulary_size, size=max(length, 0)).tolist())
