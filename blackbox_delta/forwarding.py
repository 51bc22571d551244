"""What backends that stand before another backend share."""

from __future__ import annotations

from collections.abc import Mapping

from blackbox_delta.geometry import Geometry
from blackbox_delta.types import (
    Backend,
    Capabilities,
    EmbeddingTable,
    IntArray,
    Json,
    ScoreRequest,
)


class ForwardingBackend:
    """Says of itself what the backend behind it says; only scoring is its own.

    Args:
        inner: The backend behind it.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

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
    def geometry(self) -> Geometry | None:
        """The inner backend's."""
        return self._inner.geometry

    @property
    def address(self) -> Json:
        """The inner backend's."""
        return self._inner.address

    def count_tokens(self, request: ScoreRequest) -> IntArray:
        """Prompt tokens of shape (n,), from the inner backend."""
        return self._inner.count_tokens(request)

    def close(self) -> None:
        """Closes the inner backend."""
        self._inner.close()
