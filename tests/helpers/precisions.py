"""The toy model as if it ran here in bf16."""

from __future__ import annotations

from collections.abc import Mapping

from blackbox_delta.backends.fake import FakeBackend


class Half(FakeBackend):
    """Says of itself what a local backend in bf16 does."""

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "device": "cpu", "dtype": "torch.bfloat16"}
