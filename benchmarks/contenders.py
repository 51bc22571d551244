"""The four ways to evaluate a generation that ``local_throughput.py`` compares."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from workloads import Workload

from blackbox_delta.backends.local import LocalBackend
from blackbox_delta.deltas import SoftPrompt
from blackbox_delta.heads import make_head
from blackbox_delta.objectives import make_objective
from blackbox_delta.optimizers import make_optimizer
from blackbox_delta.problem import Frame
from blackbox_delta.settings import Settings
from blackbox_delta.subspaces import DenseSubspace
from blackbox_delta.tasks import Template
from blackbox_delta.types import (
    DeltaBatch,
    EmbeddingTable,
    Example,
    FloatArray,
    ScoreRequest,
    Scores,
)

SOFT_TOKENS = 10
DIMENSION = 500
SEED = 0
WORDS_AFTER = " It was"
FRONT = "{soft} {text} It was {label}"
BEHIND = "{text} {soft} It was {label}"
#: Rows in one forward pass that the plain batched forward is tried with.
CHUNKS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Timing:
    """One generation.

    Attributes:
        seconds: From asking the optimizer for λ candidates to telling it their losses.
        search_seconds: The part of them that asking and telling took.
        tokens: Tokens that went through the model, padding not counted.
    """

    seconds: float
    search_seconds: float
    tokens: int


class NaiveLoop:
    """(a) What a user of PEFT and pycma would write: one candidate, one padded batch at a time.

    Args:
        model: A causal transformers model.
        tokenizer: Its tokenizer.
        workload: What to evaluate.
        measured: How many candidates of a generation are really evaluated; the time that they
            take is scaled to λ.
    """

    def __init__(self, model: Any, tokenizer: Any, workload: Workload, measured: int) -> None:
        from peft import PromptTuningConfig, TaskType, get_peft_model

        config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=SOFT_TOKENS)
        peft: Any = get_peft_model(model, config)
        self._model = peft.eval()
        self._prompt = self._model.prompt_encoder["default"].embedding.weight
        # With the space that FRONT has after its slot.
        texts = [f" {text}{WORDS_AFTER}" for text in workload.texts]
        # On the right, so that PEFT's positions count from the soft prompt without a gap.
        self._batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        self._words = [tokenizer(word)["input_ids"][0] for word in workload.words]
        self._labels = torch.from_numpy(workload.labels)
        self._candidates, self._measured = workload.candidates, min(measured, workload.candidates)
        rng = np.random.default_rng(SEED)
        std = float(model.get_input_embeddings().weight[::8].std())
        self._start = self._prompt.detach().numpy().copy()
        self._basis = rng.normal(0, std / DIMENSION**0.5, (self._start.size, DIMENSION))
        self._search = self._strategy()

    def _strategy(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # matplotlib is missing
            import cma

        options = {"popsize": self._candidates, "seed": SEED + 1, "verbose": -9}
        return cma.CMAEvolutionStrategy(np.zeros(DIMENSION), 1.0, options)

    @torch.no_grad()
    def label_logprobs(self, soft: FloatArray) -> torch.Tensor:
        """(n, c) for one soft prompt of shape (tokens, hidden)."""
        self._prompt.copy_(torch.from_numpy(soft))
        logits = self._model(**self._batch).logits
        last = SOFT_TOKENS + self._batch["attention_mask"].sum(dim=1) - 1
        at_answer: torch.Tensor = logits[torch.arange(len(logits)), last]
        return at_answer.log_softmax(dim=-1)[:, self._words]

    def _loss(self, z: NDArray[np.float64]) -> float:
        soft = self._start + (self._basis @ z).reshape(self._start.shape).astype(np.float32)
        logprobs = self.label_logprobs(soft)
        return float(torch.nn.functional.cross_entropy(logprobs, self._labels))

    def generation(self) -> Timing:
        """Evaluates some of a generation and scales their time to all of it."""
        began = time.perf_counter()
        candidates = self._search.ask()
        asked = time.perf_counter()
        losses = [self._loss(z) for z in candidates[: self._measured]]
        evaluated = time.perf_counter()
        # A loss that was not measured costs pycma as much time as one that was.
        self._search.tell(candidates, np.resize(losses, self._candidates).tolist())
        told = time.perf_counter()
        search = (asked - began) + (told - evaluated)
        evaluation = (evaluated - asked) * self._candidates / self._measured
        rows, lengths = len(self._labels), int(self._batch["attention_mask"].sum())
        tokens = self._candidates * (rows * SOFT_TOKENS + lengths)
        return Timing(search + evaluation, search, tokens)


class Package:
    """(b), (c) This package, with the slot where the template puts it.

    Args:
        table: The model's input embeddings.
        workload: What to evaluate.
        template: :data:`FRONT` or :data:`BEHIND`.
    """

    def __init__(self, table: EmbeddingTable, workload: Workload, template: str) -> None:
        parsed = Template.parse(template)
        self._prompts = [parsed.render(Example(text), ()) for text in workload.texts]
        self._words, self._labels = list(workload.words), workload.labels
        rng = np.random.default_rng(SEED)
        slots = {slot.name: slot.length for slot in parsed.slots}
        delta = SoftPrompt.build(slots, table, tokens=SOFT_TOKENS, init=None, rng=rng)
        subspace = DenseSubspace(DIMENSION, delta.size, SEED, delta.scale)
        self._frame = Frame(delta, subspace)
        self._optimizer = make_optimizer(
            Settings().optimizer, DIMENSION, seed=SEED, population=workload.candidates
        )
        self._head, self._objective = make_head("plain"), make_objective("cross-entropy")

    def draw(self, count: int) -> DeltaBatch:
        """Some candidates as a search meets them."""
        return self._frame.candidates(np.random.default_rng(SEED).normal(size=(count, DIMENSION)))

    def score(self, backend: LocalBackend, candidates: DeltaBatch) -> Scores:
        """Scores of shape (λ, n, c)."""
        return backend.score(ScoreRequest(self._prompts, self._words, candidates))

    def generation(self, backend: LocalBackend) -> Timing:
        """Ask, project, score, lose, tell."""
        began = time.perf_counter()
        z = self._optimizer.ask(self._optimizer.population)
        asked = time.perf_counter()
        scores = self.score(backend, self._frame.candidates(z))
        held_out = (self._head.held_out(evidence, self._labels, None) for evidence in scores)
        losses = np.array([self._objective(log_proba, self._labels) for log_proba in held_out])
        evaluated = time.perf_counter()
        self._optimizer.tell(z, losses)
        told = time.perf_counter()
        search = (asked - began) + (told - evaluated)
        return Timing(told - began, search, scores.usage.computed_tokens)


class PureForward:
    """(d) A plain batched forward of the tokens that (c) must compute, with nothing before them.

    Args:
        model: A causal transformers model.
        rows: λ·n.
        width: Tokens in a row.
    """

    def __init__(self, model: Any, rows: int, width: int) -> None:
        self._model = model
        embeddings = model.get_input_embeddings()
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(len(embeddings.weight), (rows, width), generator=generator)
        with torch.no_grad():
            self._inputs = embeddings(ids)
        self.chunk = self._best_chunk()

    def _best_chunk(self) -> int:
        """The size that takes least time a row, each tried on its own multiple of rows."""
        rows = len(self._inputs)
        sizes = [size for size in CHUNKS if size <= rows] or [rows]
        self._forward(sizes[0], sizes[0])  # warm
        seconds = {}
        for size in sizes:
            share = min(rows, max(size, 256)) // size * size
            began = time.perf_counter()
            self._forward(size, share)
            seconds[size] = (time.perf_counter() - began) / share
        return min(sizes, key=lambda size: seconds[size])

    @torch.inference_mode()
    def _forward(self, chunk: int, rows: int) -> None:
        for part in self._inputs[:rows].split(chunk):
            self._model(inputs_embeds=part, use_cache=False, logits_to_keep=1)

    def generation(self) -> Timing:
        """All rows, in the chunk size that was found best."""
        began = time.perf_counter()
        self._forward(self.chunk, len(self._inputs))
        rows, width = self._inputs.shape[:2]
        return Timing(time.perf_counter() - began, 0.0, rows * width)


@torch.no_grad()
def plain_logprobs(
    model: Any, tokenizer: Any, text: str, soft: FloatArray, words: Sequence[str]
) -> FloatArray:
    """(c,) label log-probabilities of one prompt with the slot behind its text, computed alone."""
    embeddings = model.get_input_embeddings()

    def embed(piece: str) -> torch.Tensor:
        vectors: torch.Tensor = embeddings(torch.tensor(tokenizer(piece)["input_ids"]))
        return vectors

    row = torch.cat([embed(text), torch.from_numpy(soft), embed(WORDS_AFTER)])
    logits = model(inputs_embeds=row[None], use_cache=False).logits[0, -1]
    ids = [tokenizer(word)["input_ids"][0] for word in words]
    logprobs: FloatArray = logits.log_softmax(dim=-1)[ids].numpy()
    return logprobs
