"""Causal models: λ candidates × n examples with every shared beginning computed once.

What can be shared depends on where the first soft slot sits:

* **after the text**: what precedes it is the same for all candidates. Its keys and values are
  computed once per run and kept; each candidate costs only what follows.
* **before the text**: the slot and what precedes it are the same for all examples. Their keys
  and values are computed once per candidate.
* **no slot**: words that all prompts begin with are computed once.

Where candidates differ in the upper layers alone, the lower ones are passed once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch

from blackbox_delta.backends.local.attention import PrefixCache
from blackbox_delta.backends.local.batching import (
    MemoryLimit,
    in_chunks,
    packs_by_length,
    split_when_too_large,
)
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.deep import in_slots_of
from blackbox_delta.backends.local.layout import common_lead, first_own
from blackbox_delta.backends.local.lower_layers import LowerLayers, Passed
from blackbox_delta.backends.local.passes import Passes
from blackbox_delta.backends.local.reading import Readings, Targets, read_logits
from blackbox_delta.backends.local.terms import TERMS
from blackbox_delta.backends.local.view import AnswerTree, View
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
from blackbox_delta.types import PREFIX, IntArray

SharedBy: TypeAlias = Callable[[slice], PrefixCache | None]
"""The prefixes that a chunk of the candidates continues."""


class CausalEngine:
    """Scores with shared prefixes; needs a model that follows transformers' attention interface.

    Args:
        model: The model, its attention set to :data:`.attention.NAME`.
        limit: What one forward pass may take.
        by_ids: Whether the model is given token ids.
        slots: Whether there may be soft tokens among them.

    Attributes:
        passes: The forward passes.
        takes_prefixes: Whether its layers keep keys and values of one shape.
    """

    def __init__(
        self, model: Any, limit: MemoryLimit, *, by_ids: bool = False, slots: bool = True
    ) -> None:
        self.passes = Passes(model, limit, by_ids=by_ids)
        self.takes_prefixes = True
        self._slots = slots

    def score(
        self,
        prompts: Sequence[EncodedPrompt],
        choices: Sequence[Ids],
        candidates: Candidates,
        top_k: int,
        assignment: Sequence[int] | None = None,
    ) -> Readings:
        """Readings of shape (λ, n, …); (1, n, …) where each prompt is assigned a candidate."""
        count = len(candidates) if assignment is None else 1
        readings = Readings.empty(count, len(prompts), len(choices), top_k)
        if not prompts:
            return readings
        soft = candidates.soft
        rows = [soft.codes(prompt.before) for prompt in prompts]
        job = _Job(self.passes, rows, AnswerTree.of(choices), candidates, readings)
        if assignment is not None:
            job.run_assigned(assignment)
            return readings
        lead, starts = common_lead(rows), [first_own(row) for row in rows]
        per_candidate = lead + sum(len(row) - lead for row in rows)
        per_example = sum(len(row) - start for row, start in zip(rows, starts, strict=True))
        if soft.count and candidates.among_tokens and per_example < per_candidate:
            job.run_per_example(starts)
        else:
            # What the prompts begin with stands in memory for each of the candidates.
            begun = len(candidates.prefix.token_ids) + lead
            step = self.passes.limit.begun(begun) if begun else len(candidates)
            for start in range(0, len(candidates), step):
                job.of(slice(start, start + step)).run_per_candidate(lead)
        return readings

    @property
    def deltas(self) -> frozenset[str]:
        """Kinds of delta that it can apply."""
        in_slots = in_slots_of(self.passes.model) if self._slots else ()
        return frozenset({*in_slots, *((PREFIX,) if self.takes_prefixes else ()), *TERMS})

    @property
    def by_ids(self) -> bool:
        """Whether the model is given token ids."""
        return self.passes.by_ids

    @property
    def embeddings(self) -> Any:
        """Token ids to embeddings."""
        return self.passes.embeddings

    @property
    def limit(self) -> MemoryLimit:
        """What one forward pass may take."""
        return self.passes.limit

    @property
    def lower_layers(self) -> LowerLayers:
        """The layers that are passed once where candidates differ above them alone."""
        return self.passes.lower_layers

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through so far."""
        return self.passes.computed_tokens

    @computed_tokens.setter
    def computed_tokens(self, count: int) -> None:
        self.passes.computed_tokens = count

    def release(self) -> None:
        """Drops what is kept."""
        self.passes.release()


class _Job:
    """One request on its way through the engine."""

    def __init__(
        self,
        passes: Passes,
        rows: list[IntArray],
        tree: AnswerTree,
        candidates: Candidates,
        readings: Readings,
    ) -> None:
        self._passes = passes
        self._rows = rows
        self._tree = tree
        self._candidates = candidates
        self._device = candidates.soft.vectors.device
        self._top_k = readings.top_ids.shape[2]
        self._targets = Targets.build(tree.entries, readings.label_logprobs.shape[2], self._device)
        self._readings = readings

    def of(self, chunk: slice) -> _Job:
        """The same for some of the candidates."""
        some, readings = self._candidates.select(chunk), self._readings.of(chunk)
        return _Job(self._passes, self._rows, self._tree, some, readings)

    def run_per_example(self, starts: list[int]) -> None:
        """Groups are examples: what precedes their first slot is shared by all candidates."""
        lengths = [(start, len(row) - start) for start, row in zip(starts, self._rows, strict=True)]
        own, visible = max(own for _, own in lengths), max(map(sum, lengths))

        def fit() -> int:
            return self._fit(own, visible, max(starts))

        for pack in packs_by_length(lengths, fit(), self._padding):
            split_when_too_large(
                pack, fit, self._passes.limit, lambda members: self._example_pack(members, starts)
            )

    def _example_pack(self, pack: list[int], starts: list[int]) -> None:
        prefixes = [self._rows[index][: starts[index]] for index in pack]
        shared = (
            self._passes.kept_prefixes(prefixes, self._candidates)
            if any(map(len, prefixes))
            else None
        )
        tails = [self._rows[index][starts[index] :] for index in pack]
        view = View.of(tails, [starts[index] for index in pack], self._tree, self._device)
        self._score_pack(pack, view, lambda _candidates: shared, by_example=True)

    def run_per_candidate(self, lead: int) -> None:
        """Groups are candidates: the lead is shared by all examples."""
        opening = self._rows[0][:lead]
        shared = self._passes.opening(opening, self._candidates)
        past = shared.padded_length if shared else 0
        tails = [row[lead:] for row in self._rows]
        lengths = [(len(tail),) for tail in tails]
        longest = max(lengths)[0]

        def fit() -> int:
            return self._fit(longest, past + longest)

        def score(pack: list[int]) -> None:
            own = [tails[index] for index in pack]
            view = View.of(own, [past] * len(pack), self._tree, self._device)
            self._score_pack(
                pack,
                view,
                lambda candidates: shared.select(candidates) if shared else None,
                self._passed(view, own, opening),
            )

        for pack in packs_by_length(lengths, fit(), self._padding):
            split_when_too_large(pack, fit, self._passes.limit, score)

    def _passed(self, view: View, own: list[IntArray], opening: IntArray) -> Passed | None:
        """What a pack of rows is behind the layers that are the same for all candidates."""
        passes, candidates = self._passes, self._candidates
        if not candidates.untouched:
            return None
        untuned = candidates.untuned()
        # Now, for what has been dropped is made in passes of its own, which ``through`` is not.
        begun = passes.opened(opening, candidates) if len(opening) else None
        beginning = begun.beginning if begun else passes.front(untuned)

        def whole(_pass: slice) -> None:
            passes.logits(view, untuned, beginning)

        def through() -> None:
            in_chunks(1, lambda: 1, passes.limit, whole)

        # Not the view's codes: its padding may be a token.
        key = (candidates.prefix.token_ids, opening.tobytes(), self._tree.key)
        rows = tuple(row.tobytes() for row in own)
        return passes.lower_layers.passed((*key, rows), candidates.untouched, through)

    def run_assigned(self, assignment: Sequence[int]) -> None:
        """Groups are single rows, each under the candidate that it is assigned."""
        front = self._passes.front(self._candidates)
        past = front.padded_length if front else 0
        lengths = [(len(row),) for row in self._rows]
        longest, limit = max(lengths)[0], self._passes.limit

        def fit() -> int:
            rows = self._fit(longest, past + longest, past)
            return limit.of_own(rows, self._candidates.inside.bytes_each)

        for pack in packs_by_length(lengths, fit(), self._candidates.padding(limit, 1)):
            in_chunks(len(pack), fit, limit, partial(self._assigned_rows, pack, assignment, front))

    def _assigned_rows(
        self, pack: list[int], assignment: Sequence[int], front: PrefixCache | None, part: slice
    ) -> None:
        members = pack[part]
        own = [assignment[row] for row in members]
        some = self._candidates.of_rows(own)
        past = front.padded_length if front else 0
        tails = [self._rows[row] for row in members]
        view = View.of(tails, [past] * len(members), self._tree, self._device)
        prefix = front.select(torch.tensor(own, device=self._device)) if front else None
        logits = self._passes.logits_of_rows(view, some, prefix)
        self._store(slice(0, 1), members, logits, (0, 1))

    @property
    def _padding(self) -> float:
        return self._candidates.padding(self._passes.limit, len(self._candidates))

    def _fit(self, own: int, visible: int, kept: int = 0) -> int:
        nodes = len(self._tree.tokens)
        return self._passes.limit.rows(own + nodes, visible + nodes, 1 + nodes, kept)

    def _score_pack(
        self,
        pack: list[int],
        view: View,
        shared: SharedBy,
        passed: Passed | None = None,
        *,
        by_example: bool = False,
    ) -> None:
        def work(chunk: slice) -> None:
            some = self._candidates.select(chunk)
            with passed.instead(len(some)) if passed else nullcontext():
                logits = self._passes.logits(view, some, shared(chunk), by_example=by_example)
            self._store(chunk, pack, logits, (1, 0) if by_example else (0, 1))

        def fit() -> int:
            return max(1, self._fit(view.width, view.visible.shape[-1]) // len(pack))

        in_chunks(len(self._candidates), fit, self._passes.limit, work)

    def _store(
        self, chunk: slice, pack: list[int], logits: torch.Tensor, order: tuple[int, int]
    ) -> None:
        scores, ids, logprobs = read_logits(logits, self._targets, self._top_k)
        readings, turn = self._readings, (*order, 2)
        sizes = (len(range(len(readings.label_logprobs))[chunk]), len(pack))
        shape = (sizes[order[0]], sizes[order[1]])
        readings.label_logprobs[chunk, pack] = scores.reshape(*shape, scores.shape[1]).transpose(
            turn
        )
        readings.top_ids[chunk, pack] = ids.reshape(*shape, ids.shape[1]).transpose(turn)
        readings.top_logprobs[chunk, pack] = logprobs.reshape(*shape, ids.shape[1]).transpose(turn)
