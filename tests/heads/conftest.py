from collections.abc import Callable

import numpy as np
import pytest

from blackbox_delta.types import Evidence, IntArray

MakeEvidence = Callable[..., tuple[Evidence, IntArray]]


@pytest.fixture
def make_evidence() -> MakeEvidence:
    """Evidence as a model's: top k of a distribution over a small vocabulary, shifted by class.

    ``signal`` moves all tokens, ``words`` the label word of the example's own class.
    """

    def make(
        n: int, c: int, k: int, seed: int = 0, signal: float = 1.0, words: float = 0.0
    ) -> tuple[Evidence, IntArray]:
        rng = np.random.default_rng(seed)
        labels = np.arange(n, dtype=np.int64) % c
        directions = np.random.default_rng(99).normal(size=(c, 60 + c))
        logits = rng.normal(size=(n, 60 + c)) + signal * directions[labels]
        logits[:, :c] += words * np.eye(c)[labels]
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        evidence = Evidence(
            logits[:, :c].astype(np.float32),
            top.astype(np.int64),
            np.take_along_axis(logits, top, axis=1).astype(np.float32),
        )
        return evidence, labels

    return make
