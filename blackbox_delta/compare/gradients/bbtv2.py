"""Black-box search over a prefix in every layer, after BBTv2."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from blackbox_delta.compare.contract import Measured, Point, Step, Trial
from blackbox_delta.compare.gradients.adaptations import VIRTUAL_TOKENS, Adapted, adapt
from blackbox_delta.compare.gradients.opening import PRECISION, open_causal
from blackbox_delta.compare.gradients.questions import Part, Questions, put
from blackbox_delta.compare.gradients.scoring import LabelScorer, cross_entropy
from blackbox_delta.errors import ConfigError
from blackbox_delta.optimizers import CMAES
from blackbox_delta.types import FloatArray, Json, Vector

POPULATION = 20
SIGMA = 0.2
ALPHA = 0.2
#: d over all layers; each gets an equal share.
DIMENSION = 500


class LayerSubspaces:
    """The prefix of every layer as p_l = p_l0 + A_l z_l.

    A_l's entries are normal, and scaled so that those of A_l z_l, with z_l ~ N(0, σ²), deviate by
    α times what the layer's own start p_l0 deviates by, keys and values apart.

    Args:
        start: (tokens, layers · 2 · width) keys and values as PEFT lays them out: for each layer
            its keys, then its values.
        layers: Number of layers.
        rng: Draws the A_l.
    """

    def __init__(self, start: FloatArray, layers: int, rng: np.random.Generator) -> None:
        tokens = len(start)
        # (layers, 2, tokens, width): keys and values of each layer.
        blocks = start.reshape(tokens, layers, 2, -1).transpose(1, 2, 0, 3)
        self.dimension = max(2, round(DIMENSION / layers))
        scale = ALPHA * blocks.std(axis=(2, 3)) / (np.sqrt(self.dimension) * SIGMA)
        normal = rng.standard_normal((*blocks.shape, self.dimension))
        self._directions = normal * scale[:, :, None, None, None]
        self._blocks = blocks
        self.layers = layers

    def prefix(self, z: Vector) -> FloatArray:
        """Keys and values (tokens, layers · 2 · width) of z (layers, d)."""
        moved = self._blocks + np.einsum("lktwd,ld->lktw", self._directions, z)
        tokens = moved.shape[2]
        flat = moved.transpose(2, 0, 1, 3).reshape(tokens, -1)
        return np.ascontiguousarray(flat, dtype=np.float32)


@dataclass(frozen=True)
class _Found:
    """What a search ends with.

    Attributes:
        z: (layers, d), the incumbent with the lowest development loss.
        calls: Candidates evaluated on the training examples.
        judged: Incumbents evaluated on the development examples.
        curve: The incumbent's training loss after each generation.
    """

    z: Vector
    calls: int
    judged: int
    curve: tuple[Point, ...]


@dataclass(frozen=True)
class BBTv2Style:
    """A search without gradients over deep prompts, after BBTv2 (Sun et al., 2022, 2205.11200).

    As in the paper: a prefix in every layer, each moved by its own random projection; divide and
    conquer, one CMA-ES a layer in turn from the first layer up, while the other layers stay at
    the best found; λ = 20, σ = α = 0.2; cross-entropy of the plain verbalizer.

    Unlike it: the prefix holds keys and values, as PEFT's does, not hidden states, and 10 of
    them, not 50; it starts, at z = 0, as those of the template's own words; the layers share 500
    dimensions instead of having 500 each, and the covariance is diagonal; projections are scaled
    by the deviation of the layer's own keys and values at the start; a budget that ends in
    mid-round leaves the upper layers untouched.

    The incumbent is the best on the training examples. Of all incumbents the one with the lowest
    loss on the development examples answers in the end.

    Args:
        calls: Passes over the training examples, that of the start included; those over the
            development examples come on top, and are counted.

    Raises:
        ConfigError: ``calls`` is less than 1.
    """

    calls: int

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ConfigError(f"bbtv2-style needs at least 1 call, not {self.calls}")

    @property
    def name(self) -> str:
        """As the tables call it."""
        return "bbtv2-style"

    @property
    def settings(self) -> Json:
        """Everything beside the trial that the result depends on."""
        return {
            "calls": self.calls,
            "population": POPULATION,
            "sigma": SIGMA,
            "alpha": ALPHA,
            "dimension": DIMENSION,
            "tokens": VIRTUAL_TOKENS,
        }

    def run(self, trial: Trial, step: Step) -> Measured:
        """Searches and reads the test examples with what was found.

        Raises:
            BlackBoxDeltaError: The model takes no prefix, or the trial's template, label words or
                examples cannot be used.
        """
        try:
            return self._run(trial, step)
        finally:
            gc.collect()  # a wrapped model and its wrapper hold one another

    def _run(self, trial: Trial, step: Step) -> Measured:
        loaded = open_causal(trial.model, trial.backend.identity.get("device"))
        questions = put(trial, loaded, VIRTUAL_TOKENS)
        began = time.perf_counter()
        adapted = adapt("prefix", loaded.model, questions.frame, trial.seed)
        scorer = LabelScorer(adapted.model, adapted.base, questions.choices)
        spaces = _spaces(adapted, trial.seed)

        def losses_on(part: Part) -> Callable[[Vector], float]:
            def loss(z: Vector) -> float:
                _put(adapted, spaces.prefix(z))
                return cross_entropy(scorer.read(part.prompts), part.labels)

            return loss

        search = _Search(spaces, losses_on(questions.train), losses_on(questions.dev), self.calls)
        found = search.run(trial.seed, step)
        _put(adapted, spaces.prefix(found.z))
        seconds = time.perf_counter() - began
        queries, tokens = _spent(questions, found)
        measured = Measured(
            log_proba=scorer.read(questions.test),
            train_log_proba=scorer.read(questions.train.prompts),
            calls=queries / len(questions.train),
            queries=queries,
            tokens=tokens,
            seconds=seconds,
            test_queries=1.0,
            artifact_bytes=adapted.artifact_bytes,
            curve=found.curve,
            details={
                "layers": spaces.layers,
                "dimension_per_layer": spaces.dimension,
                "generations": len(found.curve) - 1,
                "dev_scored": found.judged,
            },
            dtype=str(PRECISION),
        )
        step(1.0, "bbtv2-style: done")
        return measured


@dataclass(frozen=True)
class _Search:
    """One CMA-ES a layer, in turn.

    Attributes:
        spaces: From z (layers, d) to a prefix.
        train_loss: Of z, on the training examples.
        dev_loss: On the development examples.
        calls: How often ``train_loss`` may be asked.
    """

    spaces: LayerSubspaces
    train_loss: Callable[[Vector], float]
    dev_loss: Callable[[Vector], float]
    calls: int

    def run(self, seed: int, step: Step) -> _Found:
        """The search from z = 0."""
        optimizers = [self._optimizer(seed, layer) for layer in range(self.spaces.layers)]
        z = np.zeros((self.spaces.layers, self.spaces.dimension))
        loss, calls = self.train_loss(z), 1
        best, best_dev, judged = z, self.dev_loss(z), 1
        curve = [Point(calls, loss)]
        while calls < self.calls:
            layer = (len(curve) - 1) % self.spaces.layers
            count = min(POPULATION, self.calls - calls)
            candidate, lowest = self._generation(optimizers[layer], z, layer, count)
            calls += count
            if lowest < loss:
                z, loss = candidate, lowest
                judged += 1
                if (dev := self.dev_loss(z)) < best_dev:
                    best, best_dev = z, dev
            curve.append(Point(calls, loss))
            step(calls / (self.calls + 1), f"bbtv2-style, layer {layer}: loss {loss:.3f}")
        return _Found(best, calls, judged, tuple(curve))

    def _generation(
        self, optimizer: CMAES, z: Vector, layer: int, count: int
    ) -> tuple[Vector, float]:
        """Asks and tells a layer's optimizer; the best candidate (layers, d) and its loss."""
        asked = optimizer.ask(count)
        candidates = np.repeat(z[None], count, axis=0)
        candidates[:, layer] = asked
        losses = np.array([self.train_loss(candidate) for candidate in candidates])
        optimizer.tell(asked, losses)
        lowest = int(losses.argmin())
        return candidates[lowest], float(losses[lowest])

    def _optimizer(self, seed: int, layer: int) -> CMAES:
        rng = np.random.Generator(np.random.PCG64([seed, 2, layer]))
        return CMAES(self.spaces.dimension, rng, population=POPULATION, sigma=SIGMA, diagonal=True)


def _spaces(adapted: Adapted, seed: int) -> LayerSubspaces:
    (weight,) = adapted.parameters.values()
    layers = adapted.base.config.get_text_config().num_hidden_layers
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    return LayerSubspaces(weight.detach().cpu().numpy().copy(), layers, rng)


@torch.no_grad()
def _put(adapted: Adapted, prefix: FloatArray) -> None:
    (weight,) = adapted.parameters.values()
    weight.copy_(torch.from_numpy(prefix))


def _spent(questions: Questions, found: _Found) -> tuple[int, int]:
    """Queries and tokens."""
    rounds = ((questions.train, found.calls), (questions.dev, found.judged))
    return (
        sum(len(part) * times for part, times in rounds),
        sum(part.tokens * times for part, times in rounds),
    )
