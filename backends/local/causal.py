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

import numpy as np
import torch

from blackbox_delta.backends.local.attention import Plan, PrefixCache, running
from blackbox_delta.backends.local.batching import (
    MemoryLimit,
    in_chunks,
    packs_by_length,
    split_when_too_large,
)
from blackbox_delta.backends.local.candidates import PREFIX, Candidates
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.layout import (
    common_lead,
    embed,
    first_soft,
    padded,
)
from blackbox_delta.backends.local.lower_layers import LowerLayers, Passed
from blackbox_delta.backends.local.reading import (
    Readings,
    Targets,
    logits_at,
    read_logits,
    trunk_of,
)
from blackbox_delta.backends.local.terms import TERMS
from blackbox_delta.backends.local.view import AnswerTree, View
from blackbox_delta.backends.prompt_encoder import EncodedPrompt, Ids
from blackbox_delta.types import IN_SLOTS, IntArray

SharedBy: TypeAlias = Callable[[slice], PrefixCache | None]
"""The prefixes that a chunk of the candidates continues."""


class CausalEngine:
    """Scores with shared prefixes; needs a model that follows transformers' attention interface.

    Args:
        model: The model, its attention set to :data:`.attention.NAME`.
        limit: What one forward pass may take.
    """

    def __init__(self, model: Any, limit: MemoryLimit) -> None:
        self._model = model
        self._trunk = trunk_of(model)
        self._embeddings = model.get_input_embeddings()
        self._limit = limit
        self._kept = Kept(limit.bytes)
        self.lower_layers = LowerLayers(model, self._kept)
        self.computed_tokens = 0

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
        job = _Job(self, rows, AnswerTree.of(choices), candidates, readings)
        if assignment is not None:
            job.run_assigned(assignment)
            return readings
        lead, starts = common_lead(rows), [first_soft(row) for row in rows]
        per_candidate = lead + sum(len(row) - lead for row in rows)
        per_example = sum(len(row) - start for row, start in zip(rows, starts, strict=True))
        if soft.count and candidates.among_tokens and per_example < per_candidate:
            job.run_per_example(starts)
        else:
            job.run_per_candidate(lead)
        return readings

    # ------------------------------------------------------------------ forward passes

    def front(self, candidates: Candidates) -> PrefixCache | None:
        """Keys and values of the candidates' own prefixes."""
        prefix = candidates.prefix
        if not prefix:
            return None
        words = self.kept_prefixes([np.array(prefix.token_ids)], candidates)
        return prefix.on(words, len(candidates))

    def opening(self, row: IntArray, of: Candidates) -> PrefixCache | None:
        """Keys and values of the candidates' own prefixes and what all prompts begin with."""
        front = self.front(of)
        return self.prefixes([row], of, front, self.opened(row, of)) if len(row) else front

    def opened(self, row: IntArray, of: Candidates) -> Passed | None:
        """What all prompts begin with, behind layers that are the same for all candidates."""
        key = (of.prefix.token_ids, row.tobytes())
        return self.lower_layers.passed(key, of.untouched, lambda: self.opening(row, of.untuned()))

    def prefixes(
        self,
        rows: Sequence[IntArray],
        of: Candidates,
        front: PrefixCache | None = None,
        passed: Passed | None = None,
    ) -> PrefixCache:
        """Keys and values of one row under each candidate, or of many rows under the only one.

        Args:
            rows: What they are of.
            of: The candidates.
            front: What stands before the row, a group for each candidate.
            passed: What the row is behind layers that are the same for all candidates.
        """
        vectors = of.soft.vectors
        device, past = vectors.device, front.padded_length if front else 0
        codes, lengths = padded(rows, "left")
        width = codes.shape[1]
        index = torch.arange(width, device=device)
        causal = index[:, None] >= index
        itself = torch.eye(width, dtype=torch.bool, device=device)
        everything = slice(None)
        parts: list[PrefixCache] = []

        def work(chunk: slice) -> None:
            some, candidates = (chunk, everything) if len(rows) > 1 else (everything, chunk)
            batch = embed(codes[some], vectors[candidates], self._embeddings).flatten(0, 1)
            own = torch.from_numpy(lengths[some]).to(device).expand(len(batch))
            pads = (width - own)[:, None]
            visible = (causal & (index >= pads)[:, None]) | itself
            positions = past + (index - pads).clamp(min=0)
            record = passed.record(own, width) if passed else PrefixCache(own)
            some_front = front.select(candidates) if front else None
            plan = Plan(
                1,
                torch.nn.functional.pad(visible, (past, 0), value=True),
                positions,
                torch.cat([torch.arange(past, device=device).expand(len(batch), -1), positions], 1),
                prefix=some_front,
                record=record,
            )
            instead = passed.instead(len(batch)) if passed else nullcontext()
            with running(plan), of.select(candidates).acting(codes[some]), instead:
                self._trunk(inputs_embeds=batch, position_ids=positions, use_cache=False)
            parts.append(record.behind(some_front) if some_front else record)
            self.computed_tokens += int(own.sum())

        in_chunks(
            max(len(rows), len(vectors)),
            lambda: self._limit.rows(width, past + width, 0),
            self._limit,
            work,
        )
        return parts[0] if len(parts) == 1 else _joined(parts)

    def kept_prefixes(self, rows: Sequence[IntArray], candidates: Candidates) -> PrefixCache:
        """Like :meth:`prefixes` for rows without soft tokens, computed once per run."""
        key = ("prefixes", *(row.tobytes() for row in rows))
        return self._kept.get(key, lambda: self.prefixes(rows, candidates.untuned()))

    def logits(self, batch: torch.Tensor, plan: Plan, read: slice) -> torch.Tensor:
        """(rows, p, vocabulary) at the positions ``read``."""
        positions = torch.arange(batch.shape[1], device=batch.device)[read]
        inputs = {"inputs_embeds": batch, "position_ids": plan.query_positions, "use_cache": False}
        with running(plan):
            return logits_at(self._model, self._trunk, positions.expand(len(batch), -1), inputs)

    def release(self) -> None:
        """Drops what is kept."""
        self._kept.clear()

    @property
    def limit(self) -> MemoryLimit:
        """What one forward pass may take."""
        return self._limit

    @property
    def deltas(self) -> frozenset[str]:
        """Kinds of delta that it can apply."""
        return frozenset({*IN_SLOTS, PREFIX, *TERMS})

    @property
    def embeddings(self) -> Any:
        """Token ids to embeddings."""
        return self._embeddings


class _Job:
    """One request on its way through the engine."""

    def __init__(
        self,
        engine: CausalEngine,
        rows: list[IntArray],
        tree: AnswerTree,
        candidates: Candidates,
        readings: Readings,
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._tree = tree
        self._candidates = candidates
        self._device = candidates.soft.vectors.device
        self._top_k = readings.top_ids.shape[2]
        self._targets = Targets.build(tree.entries, readings.label_logprobs.shape[2], self._device)
        self._readings = readings

    def run_per_example(self, starts: list[int]) -> None:
        """Groups are examples: what precedes their first slot is shared by all candidates."""
        lengths = [(start, len(row) - start) for start, row in zip(starts, self._rows, strict=True)]
        own, visible = max(own for _, own in lengths), max(map(sum, lengths))

        def fit() -> int:
            return self._fit(own, visible, max(starts))

        for pack in packs_by_length(lengths, fit(), self._padding):
            split_when_too_large(
                pack, fit, self._engine.limit, lambda members: self._example_pack(members, starts)
            )

    def _example_pack(self, pack: list[int], starts: list[int]) -> None:
        prefixes = [self._rows[index][: starts[index]] for index in pack]
        shared = (
            self._engine.kept_prefixes(prefixes, self._candidates)
            if any(map(len, prefixes))
            else None
        )
        tails = [self._rows[index][starts[index] :] for index in pack]
        view = View.of(tails, [starts[index] for index in pack], self._tree, self._device)
        self._score_pack(pack, view, lambda _candidates: shared, by_example=True)

    def run_per_candidate(self, lead: int) -> None:
        """Groups are candidates: the lead is shared by all examples."""
        opening = self._rows[0][:lead]
        shared = self._engine.opening(opening, self._candidates)
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
                self._passed(view, opening),
            )

        for pack in packs_by_length(lengths, fit(), self._padding):
            split_when_too_large(pack, fit, self._engine.limit, score)

    def _passed(self, view: View, opening: IntArray) -> Passed | None:
        """What a pack of rows is behind the layers that are the same for all candidates."""
        engine, candidates = self._engine, self._candidates

        def through() -> None:
            untuned = candidates.untuned()
            begun = engine.opened(opening, candidates) if len(opening) else None
            self._logits(view, untuned, begun.beginning if begun else engine.front(untuned))

        key = (candidates.prefix.token_ids, opening.tobytes(), view.codes.shape, self._tree.key)
        return engine.lower_layers.passed(
            (*key, view.codes.tobytes()), candidates.untouched, through
        )

    def run_assigned(self, assignment: Sequence[int]) -> None:
        """Groups are single rows, each under the candidate that it is assigned."""
        front = self._engine.front(self._candidates)
        past = front.padded_length if front else 0
        lengths = [(len(row),) for row in self._rows]
        longest, limit = max(lengths)[0], self._engine.limit

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
        [batch] = embed(view.codes, some.soft.vectors, self._engine.embeddings, own=True)
        plan = Plan(
            rows=1,
            visible=view.visible,
            query_positions=view.positions,
            key_positions=view.key_positions,
            prefix=front.select(torch.tensor(own, device=self._device)) if front else None,
        )
        with some.acting(view.codes):
            logits = self._engine.logits(batch, plan, slice(view.end, None))
        self._store(slice(0, 1), members, logits, (0, 1))
        self._engine.computed_tokens += view.real_tokens

    @property
    def _padding(self) -> float:
        return self._candidates.padding(self._engine.limit, len(self._candidates))

    def _fit(self, own: int, visible: int, kept: int = 0) -> int:
        nodes = len(self._tree.tokens)
        return self._engine.limit.rows(own + nodes, visible + nodes, 1 + nodes, kept)

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
                logits = self._logits(view, some, shared(chunk), by_example=by_example)
            self._store(chunk, pack, logits, (1, 0) if by_example else (0, 1))

        def fit() -> int:
            return max(1, self._fit(view.width, view.visible.shape[-1]) // len(pack))

        in_chunks(len(self._candidates), fit, self._engine.limit, work)

    def _logits(
        self,
        view: View,
        some: Candidates,
        prefix: PrefixCache | None,
        *,
        by_example: bool = False,
    ) -> torch.Tensor:
        """(rows, p, vocabulary) of every example of a view under every one of the candidates."""
        batch = embed(view.codes, some.soft.vectors, self._engine.embeddings)
        candidates, examples = batch.shape[:2]
        batch = batch.transpose(0, 1) if by_example else batch
        plan = Plan(
            rows=candidates if by_example else examples,
            visible=view.repeated(view.visible, candidates, by_example=by_example),
            query_positions=view.repeated(view.positions, candidates, by_example=by_example),
            key_positions=view.repeated(view.key_positions, candidates, by_example=by_example),
            prefix=prefix,
        )
        with some.acting(view.codes, by_example=by_example):
            logits = self._engine.logits(batch.flatten(0, 1), plan, slice(view.end, None))
        self._engine.computed_tokens += candidates * view.real_tokens
        return logits

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


def _joined(parts: list[PrefixCache]) -> PrefixCache:
    return PrefixCache(
        torch.cat([part.lengths for part in parts]),
        [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
        [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
    )
