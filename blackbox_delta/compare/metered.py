"""A backend that counts what it was asked."""

from __future__ import annotations

from collections.abc import Mapping

from blackbox_delta.types import (
    Backend,
    Capabilities,
    EmbeddingTable,
    IntArray,
    Json,
    ScoreRequest,
    Scores,
    Sink,
    Usage,
)


class Metered:
    """Passes everything on to another backend and adds up the usage.

    Args:
        inner: Who answers.

    Attributes:
        usage: What all requests together cost so far.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.usage = Usage()

    @property
    def name(self) -> str:
        """The inner backend's."""
        return self._inner.name

    @property
    def identity(self) -> Mapping[str, str]:
        """The inner backend's."""
        return self._inner.identity

    @property
    def fingerprint(self) -> str:
        """The inner backend's."""
        return self._inner.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The inner backend's."""
        return self._inner.capabilities

    @property
    def embedding_table(self) -> EmbeddingTable | None:
        """The inner backend's."""
        return self._inner.embedding_table

    @property
    def address(self) -> Json:
        """The inner backend's."""
        return self._inner.address

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        """The inner backend's scores; raises what it raises."""
        scores = self._inner.score(request, sink)
        self.usage = self.usage + scores.usage
        return scores

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens of shape (n,), from the inner backend."""
        return self._inner.count_tokens(request)

    def close(self) -> None:
        """Closes the inner backend."""
        self._inner.close()
