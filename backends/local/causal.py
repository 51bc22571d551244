"""Causal models: λ candidates × n examples with every shared beginning computed once.

What can be shared depends on where the first soft slot sits:

* **after the text**: what precedes it is the same for all candidates. Its keys and values are
  computed once per run and kept; each candidate costs only what follows.
* **before the text**: the slot and what precedes it are the same for all examples. Their keys
  and values are computed once per candidate.
* **no slot**: words that all prompts begin with are computed once.

Label words of several tokens hang behind the prompt as a tree, each branch blind to the others,
so that all choices are scored in the same pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blackbox_delta.backends.local.attention import Plan, PrefixCache, running
from blackbox_delta.backends.local.batching import MemoryLimit, in_chunks, packs_by_length
from blackbox_delta.backends.local.layout import (
    SoftTokens,
    common_lead,
    embed,
    first_soft,
    padded,
)
from blackbox_delta.backends.local.reading import Readings, Targets, only_positions, read_logits
from blackbox_delta.backends.local.tokens import EncodedPrompt, Ids
from blackbox_delta.errors import OutOfMemoryError
from blackbox_delta.types import IntArray


@dataclass(frozen=True)
class AnswerTree:
    """All choices behind one prompt: a node for every beginning of a label word but its whole.

    Attributes:
        tokens: (T,) the nodes' tokens; T = 0 when all label words are single tokens.
        depth: (T,) 1 for the children of the prompt.
        sees: (T, T) whether a node is another's ancestor or itself.
        entries: (position, token, choice) to be read; position 0 is the end of the prompt.
    """

    tokens: IntArray
    depth: IntArray
    sees: np.ndarray[Any, np.dtype[np.bool_]]
    entries: list[tuple[int, int, int]]

    @classmethod
    def of(cls, choices: Sequence[Ids]) -> AnswerTree:
        """The tree of the given label words."""
        nodes: dict[Ids, int] = {}
        entries = []
        for choice, ids in enumerate(choices):
            for depth, token in enumerate(ids):
                position = 0 if depth == 0 else 1 + nodes.setdefault(ids[:depth], len(nodes))
                entries.append((position, token, choice))
        sees = np.array([[a == b[: len(a)] for a in nodes] for b in nodes], dtype=bool)
        return cls(
            np.array([node[-1] for node in nodes], dtype=np.int64),
            np.array([len(node) for node in nodes], dtype=np.int64),
            sees.reshape(len(nodes), len(nodes)),
            entries,
        )


class PrefixStore:
    """Keys and values of packs of prefixes, kept for the whole run, the oldest dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._packs: OrderedDict[tuple[bytes, ...], PrefixCache] = OrderedDict()

    def get(self, key: tuple[bytes, ...]) -> PrefixCache | None:
        """The pack made of these prefixes, if it is still there."""
        if key in self._packs:
            self._packs.move_to_end(key)
        return self._packs.get(key)

    def put(self, key: tuple[bytes, ...], pack: PrefixCache) -> None:
        """Keeps a pack, unless it alone is over the limit."""
        if pack.nbytes > self._limit:
            return
        self._packs[key] = pack
        self._held += pack.nbytes
        while self._held > self._limit:
            _, dropped = self._packs.popitem(last=False)
            self._held -= dropped.nbytes


class CausalEngine:
    """Scores with shared prefixes; needs a model that follows transformers' attention interface.

    Args:
        model: The model, its attention set to :data:`.attention.NAME`.
        limit: What one forward pass may take.
    """

    def __init__(self, model: Any, limit: MemoryLimit) -> None:
        self._model = model
        self._trunk = model.base_model
        self._embeddings = model.get_input_embeddings()
        self._limit = limit
        self._prefixes = PrefixStore(limit.bytes)
        self.computed_tokens = 0

    def score(
        self, prompts: Sequence[EncodedPrompt], choices: Sequence[Ids], soft: SoftTokens, top_k: int
    ) -> Readings:
        """Readings of shape (λ, n, …)."""
        rows = [soft.codes(prompt.before) for prompt in prompts]
        job = _Job(self, rows, AnswerTree.of(choices), soft, top_k, len(choices))
        lead, starts = common_lead(rows), [first_soft(row) for row in rows]
        per_candidate = lead + sum(len(row) - lead for row in rows)
        per_example = sum(len(row) - start for row, start in zip(rows, starts, strict=True))
        if soft.count and per_example < per_candidate:
            job.run_per_example(starts)
        else:
            job.run_per_candidate(lead)
        return job.readings

    # ------------------------------------------------------------------ forward passes

    def prefixes(self, rows: Sequence[IntArray], vectors: torch.Tensor) -> PrefixCache:
        """Keys and values of one row under each candidate, or of many rows under the only one."""
        device = vectors.device
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
            positions = (index - pads).clamp(min=0)
            record = PrefixCache(own)
            plan = Plan(1, visible, positions, positions, record=record)
            with running(plan):
                self._trunk(inputs_embeds=batch, position_ids=positions, use_cache=False)
            parts.append(record)
            self.computed_tokens += int(own.sum())

        in_chunks(
            max(len(rows), len(vectors)),
            lambda: self._limit.rows(width, width, 0),
            self._limit,
            work,
        )
        return parts[0] if len(parts) == 1 else _joined(parts)

    def kept_prefixes(self, rows: Sequence[IntArray], vectors: torch.Tensor) -> PrefixCache:
        """Like :meth:`prefixes` for rows without soft tokens, computed once per run."""
        key = tuple(row.tobytes() for row in rows)
        pack = self._prefixes.get(key)
        if pack is None:
            pack = self.prefixes(rows, vectors[:1, :0])
            self._prefixes.put(key, pack)
        return pack

    def logits(self, batch: torch.Tensor, plan: Plan, read: slice) -> torch.Tensor:
        """(rows, p, vocabulary) at the positions ``read``."""
        positions = torch.arange(batch.shape[1], device=batch.device)[read]
        with running(plan), only_positions(self._trunk, positions.expand(len(batch), -1)):
            output = self._model(
                inputs_embeds=batch, position_ids=plan.query_positions, use_cache=False
            )
        logits: torch.Tensor = output.logits
        return logits

    @property
    def limit(self) -> MemoryLimit:
        """What one forward pass may take."""
        return self._limit

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
        soft: SoftTokens,
        top_k: int,
        choices: int,
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._tree = tree
        self._vectors = soft.vectors
        self._top_k = top_k
        self._targets = Targets.build(tree.entries, choices, soft.vectors.device)
        self.readings = Readings.empty(len(soft.vectors), len(rows), choices, top_k)

    def run_per_example(self, starts: list[int]) -> None:
        """Groups are examples: what precedes their first slot is shared by all candidates."""
        lengths = [(start, len(row) - start) for start, row in zip(starts, self._rows, strict=True)]
        most = self._fit(max(own for _, own in lengths), max(map(sum, lengths)))
        for pack in packs_by_length(lengths, most):
            self._split_on_failure(pack, lambda members: self._example_pack(members, starts))

    def _example_pack(self, pack: list[int], starts: list[int]) -> None:
        prefixes = [self._rows[index][: starts[index]] for index in pack]
        shared = (
            self._engine.kept_prefixes(prefixes, self._vectors) if any(map(len, prefixes)) else None
        )
        tails = [self._rows[index][starts[index] :] for index in pack]
        lengths = [starts[index] for index in pack]
        self._score_pack(pack, tails, lengths, lambda _candidates: shared, by_example=True)

    def run_per_candidate(self, lead: int) -> None:
        """Groups are candidates: the lead is shared by all examples."""
        opening = self._rows[0][:lead]
        shared = self._engine.prefixes([opening], self._vectors) if lead else None
        tails = [row[lead:] for row in self._rows]
        lengths = [(len(tail),) for tail in tails]
        longest = max(lengths)[0]
        for pack in packs_by_length(lengths, self._fit(longest, lead + longest)):
            self._split_on_failure(
                pack,
                lambda members: self._score_pack(
                    members,
                    [tails[index] for index in members],
                    [lead] * len(members),
                    lambda candidates: shared.select(candidates) if shared else None,
                    by_example=False,
                ),
            )

    def _split_on_failure(self, pack: list[int], work: Any) -> None:
        """Halves a pack for which even one candidate does not fit into memory."""
        try:
            work(pack)
        except OutOfMemoryError:
            if len(pack) == 1:
                raise
            for half in (pack[: len(pack) // 2], pack[len(pack) // 2 :]):
                self._split_on_failure(half, work)

    def _fit(self, own: int, visible: int) -> int:
        nodes = len(self._tree.tokens)
        return self._engine.limit.rows(own + nodes, visible + nodes, 1 + nodes)

    def _score_pack(
        self,
        pack: list[int],
        tails: list[IntArray],
        lengths: list[int],
        shared: Any,
        *,
        by_example: bool,
    ) -> None:
        view = _View.of(tails, lengths, self._tree, self._vectors.device)

        def work(chunk: slice) -> None:
            batch = embed(view.codes, self._vectors[chunk], self._engine.embeddings)
            candidates = len(batch)
            order = (1, 0) if by_example else (0, 1)
            batch = batch.transpose(0, 1) if by_example else batch
            plan = Plan(
                rows=candidates if by_example else len(pack),
                visible=view.repeated(view.visible, candidates, by_example=by_example),
                query_positions=view.repeated(view.positions, candidates, by_example=by_example),
                key_positions=view.repeated(view.key_positions, candidates, by_example=by_example),
                prefix=shared(chunk),
            )
            logits = self._engine.logits(batch.flatten(0, 1), plan, slice(view.end, None))
            self._store(chunk, pack, logits, order)
            self._engine.computed_tokens += candidates * view.real_tokens

        def fit() -> int:
            return max(1, self._fit(view.width, view.visible.shape[-1]) // len(pack))

        in_chunks(len(self._vectors), fit, self._engine.limit, work)

    def _store(
        self, chunk: slice, pack: list[int], logits: torch.Tensor, order: tuple[int, int]
    ) -> None:
        scores, ids, logprobs = read_logits(logits, self._targets, self._top_k)
        sizes = (len(range(*chunk.indices(len(self._vectors)))), len(pack))
        shape = (sizes[order[0]], sizes[order[1]])
        readings, turn = self.readings, (*order, 2)
        readings.label_logprobs[chunk, pack] = scores.reshape(*shape, scores.shape[1]).transpose(
            turn
        )
        readings.top_ids[chunk, pack] = ids.reshape(*shape, ids.shape[1]).transpose(turn)
        readings.top_logprobs[chunk, pack] = logprobs.reshape(*shape, ids.shape[1]).transpose(turn)


@dataclass(frozen=True)
class _View:
    """What each example of a pack sees: its shared prefix, its own tokens, the answer tree.

    Attributes:
        codes: (p, M) own tokens, padded on the left, then the tree's nodes; M = width.
        visible: (p, M, L + M).
        positions: (p, M).
        key_positions: (p, L + M).
        end: Index of the last own token, where the answer starts.
        real_tokens: Tokens that are not padding.
    """

    codes: IntArray
    visible: torch.Tensor
    positions: torch.Tensor
    key_positions: torch.Tensor
    end: int
    real_tokens: int

    @property
    def width(self) -> int:
        """M."""
        return int(self.codes.shape[1])

    @classmethod
    def of(
        cls,
        tails: list[IntArray],
        prefix_lengths: list[int],
        tree: AnswerTree,
        device: torch.device,
    ) -> _View:
        """The view of examples with these own tokens behind prefixes of these lengths."""
        own, lengths = padded(tails, "left")
        m, nodes, past = own.shape[1], len(tree.tokens), max(prefix_lengths)
        prefix = np.array(prefix_lengths)[:, None]
        pads = (m - lengths)[:, None]
        tree_positions = prefix + lengths[:, None] + tree.depth - 1
        positions = np.concatenate(
            [np.maximum(prefix + np.arange(m) - pads, 0), tree_positions], axis=1
        )
        past_positions = np.arange(past) - (past - prefix)
        square = np.tril(np.ones((m + nodes, m + nodes), dtype=bool))
        square[m:, m:] = tree.sees
        itself = np.eye(m + nodes, dtype=bool)
        real = np.concatenate([np.arange(m) >= pads, np.ones((len(tails), nodes), bool)], axis=1)
        visible = np.concatenate(
            [
                np.broadcast_to((past_positions >= 0)[:, None], (len(tails), m + nodes, past)),
                (square & real[:, None]) | itself,
            ],
            axis=2,
        )
        codes = np.concatenate([own, np.tile(tree.tokens, (len(tails), 1))], axis=1)
        return cls(
            codes,
            torch.from_numpy(visible).to(device),
            torch.from_numpy(positions).to(device),
            torch.from_numpy(np.concatenate([past_positions, positions], axis=1)).to(device),
            m - 1,
            int(lengths.sum()) + nodes * len(tails),
        )

    @staticmethod
    def repeated(values: torch.Tensor, candidates: int, *, by_example: bool) -> torch.Tensor:
        """One row per (group, row): examples outermost, or candidates outermost."""
        if by_example:
            return values.repeat_interleave(candidates, dim=0)
        return values.repeat(candidates, *(1 for _ in values.shape[1:]))


def _joined(parts: list[PrefixCache]) -> PrefixCache:
    return PrefixCache(
        torch.cat([part.lengths for part in parts]),
        [torch.cat(layer) for layer in zip(*(part.keys for part in parts), strict=True)],
        [torch.cat(layer) for layer in zip(*(part.values for part in parts), strict=True)],
    )
