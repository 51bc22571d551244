"""Forward passes of a causal model, with the beginnings that rows share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.attention import Plan, PrefixCache, running
from blackbox_delta.backends.local.batching import MemoryLimit, in_chunks
from blackbox_delta.backends.local.candidates import Candidates
from blackbox_delta.backends.local.feeding import Entrance
from blackbox_delta.backends.local.kept import Kept
from blackbox_delta.backends.local.layout import embed, padded
from blackbox_delta.backends.local.lower_layers import LowerLayers, Passed
from blackbox_delta.backends.local.reading import logits_at, trunk_of
from blackbox_delta.backends.local.view import View
from blackbox_delta.types import IntArray


class Passes:
    """Puts rows through a model that follows transformers' attention interface.

    Args:
        model: The model, its attention set to :data:`.attention.NAME`.
        limit: What one forward pass may take.
        by_ids: Whether the model is given token ids.

    Attributes:
        model: The model.
        limit: What one forward pass may take.
        embeddings: Token ids to embeddings.
        lower_layers: The layers that are passed once where candidates differ above them alone.
        computed_tokens: Tokens that went through so far, padding not counted.
    """

    def __init__(self, model: Any, limit: MemoryLimit, *, by_ids: bool = False) -> None:
        self.model = model
        self._entrance = Entrance.of(model, by_ids=by_ids)
        self._trunk = trunk_of(model)
        self._kept = Kept(limit.bytes)
        self.limit = limit
        self.embeddings = self._entrance.table
        self.lower_layers = LowerLayers(model, self._kept)
        self.computed_tokens = 0

    @property
    def by_ids(self) -> bool:
        """Whether the model is given token ids."""
        return self._entrance.by_ids

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
        if not of.untouched:
            return None
        untuned = of.untuned()
        # Now, for it may take a pass of its own.
        front, key = self.front(untuned), (of.prefix.token_ids, row.tobytes())
        return self.lower_layers.passed(
            key, of.untouched, lambda: self.prefixes([row], untuned, front)
        )

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
        width, everything = codes.shape[1], slice(None)
        parts: list[PrefixCache] = []

        def work(chunk: slice) -> None:
            some, candidates = (chunk, everything) if len(rows) > 1 else (everything, chunk)
            batch = embed(codes[some], vectors[candidates], self.embeddings).flatten(0, 1)
            own = torch.from_numpy(lengths[some]).to(device).expand(len(batch))
            record = passed.record(own, width) if passed else PrefixCache(own)
            some_front = front.select(candidates) if front else None
            plan = _left_padded_plan(own, width, past, some_front, record)
            instead = passed.instead(len(batch)) if passed else nullcontext()
            acting = of.select(candidates).acting(codes[some])
            fed = self._entrance.fed(codes[some], batch)
            with running(plan), acting, instead, fed as given:
                self._trunk(**given, position_ids=plan.query_positions, use_cache=False)
            parts.append(record.behind(some_front) if some_front else record)
            self.computed_tokens += int(own.sum())

        in_chunks(
            max(len(rows), len(vectors)),
            lambda: self.limit.rows(width, past + width, 0),
            self.limit,
            work,
        )
        return parts[0] if len(parts) == 1 else _joined(parts)

    def kept_prefixes(self, rows: Sequence[IntArray], candidates: Candidates) -> PrefixCache:
        """Like :meth:`prefixes` for rows without soft tokens, computed once per run."""
        key = ("prefixes", *(row.tobytes() for row in rows))
        return self._kept.get(key, lambda: self.prefixes(rows, candidates.untuned()))

    def logits(
        self,
        view: View,
        some: Candidates,
        prefix: PrefixCache | None,
        *,
        by_example: bool = False,
    ) -> torch.Tensor:
        """(rows, p, vocabulary) of every example of a view under every one of the candidates."""
        batch = embed(view.codes, some.soft.vectors, self.embeddings)
        candidates = len(batch)
        batch = batch.transpose(0, 1) if by_example else batch
        plan = Plan(
            visible=view.repeated(view.visible, candidates, by_example=by_example),
            query_positions=view.repeated(view.positions, candidates, by_example=by_example),
            key_positions=view.repeated(view.key_positions, candidates, by_example=by_example),
            prefix=prefix,
        )
        batch = batch.flatten(0, 1)
        fed = self._entrance.fed(view.codes, batch, by_example=by_example)
        with some.acting(view.codes, by_example=by_example), fed as given:
            logits = self._logits(given, plan, view.end)
        self.computed_tokens += candidates * view.real_tokens
        return logits

    def logits_of_rows(
        self, view: View, some: Candidates, prefix: PrefixCache | None
    ) -> torch.Tensor:
        """(rows, p, vocabulary) of every example of a view, each under a candidate of its own."""
        [batch] = embed(view.codes, some.soft.vectors, self.embeddings, own=True)
        plan = Plan(
            visible=view.visible,
            query_positions=view.positions,
            key_positions=view.key_positions,
            prefix=prefix,
        )
        with some.acting(view.codes), self._entrance.fed(view.codes, batch) as given:
            logits = self._logits(given, plan, view.end)
        self.computed_tokens += view.real_tokens
        return logits

    def _logits(self, given: dict[str, Any], plan: Plan, end: int) -> torch.Tensor:
        """From the position ``end`` on."""
        at = plan.query_positions
        positions = torch.arange(end, at.shape[1], device=at.device).expand(len(at), -1)
        inputs = {**given, "position_ids": at, "use_cache": False}
        with running(plan):
            return logits_at(self.model, self._trunk, positions, inputs)

    def release(self) -> None:
        """Drops what is kept."""
        self._kept.clear()


def _left_padded_plan(
    own: torch.Tensor, width: int, past: int, front: PrefixCache | None, record: PrefixCache
) -> Plan:
    """How rows are read that are padded on the left.

    Args:
        own: (rows,) their lengths without padding.
        width: Their length with it.
        past: Tokens that stand before all of them, in ``front``.
        front: Keys and values of these.
        record: Where those of the rows go.
    """
    index = torch.arange(width, device=own.device)
    pads = (width - own)[:, None]
    itself = torch.eye(width, dtype=torch.bool, device=own.device)  # padding sees something too
    visible = ((index[:, None] >= index) & (index >= pads)[:, None]) | itself
    positions = past + (index - pads).clamp(min=0)
    before = torch.arange(past, device=own.device).expand(len(own), -1)
    return Plan(
        torch.nn.functional.pad(visible, (past, 0), value=True),
        positions,
        torch.cat([before, positions], 1),
        prefix=front,
        record=record,
    )


def _joined(parts: list[PrefixCache]) -> PrefixCache:
    return PrefixCache(
        torch.cat([part.lengths for part in parts]),
        [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
        [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
    )
